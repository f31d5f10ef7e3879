//! An explicit-state explorer: every state that a model can come to, breadth first, each once.
//!
//! It checks two things: that no state is wrong (safety), and that from every state a good end can still be
//! reached without a further fault (so nothing is stuck for good). Because the search goes breadth first, the
//! way to a wrong state that it prints is one of the shortest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

/// What is explored.
pub trait Model {
    /// All that the future depends on.
    type State: Copy + Debug + Eq + Hash;
    /// The name of a step, for people.
    type Step: Copy + Display;

    /// Where everything begins.
    fn start(&self) -> Self::State;

    /// All that can happen next.
    fn moves(&self, state: &Self::State, moves: &mut Vec<Move<Self>>);

    /// What is wrong with a state, if anything is.
    fn wrong(&self, state: &Self::State) -> Option<String>;

    /// Whether everything has come to its good end.
    fn is_done(&self, state: &Self::State) -> bool;
}

/// One thing that can happen.
pub struct Move<M: Model + ?Sized> {
    /// Its name.
    pub step: M::Step,
    /// Whether something went wrong outside: the good end must be in reach without any such step.
    pub kind: Kind,
    /// Where it leads.
    pub next: M::State,
}

/// Whether a step is part of the protocol or breaks something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A crash, or a message that is lost.
    Fault,
    /// What the parties do by themselves.
    Normal,
}

/// What a complete search came to.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub moves: usize,
    /// States in which all is done.
    pub ends: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub depth: usize,
}

impl Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            states,
            moves,
            ends,
            depth,
        } = self;
        write!(
            f,
            "{states} states, {moves} steps between them, {ends} good ends, {depth} steps deep"
        )
    }
}

/// The way to a state that must not be.
#[derive(Clone, Debug)]
pub struct CounterExample {
    /// What is wrong there.
    pub wrong: String,
    /// Each step with the state behind it, from the beginning.
    pub path: Vec<(String, String)>,
    /// How many states had been seen.
    pub states: usize,
}

impl Display for CounterExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (after {} states)", self.wrong, self.states)?;
        for (number, (step, _)) in (1..).zip(&self.path) {
            writeln!(f, "{number:4}. {step}")?;
        }
        match self.path.last() {
            Some((_, state)) => write!(f, "      {state}"),
            None => Ok(()),
        }
    }
}

/// Looks at every state.
///
/// # Errors
/// The shortest way to a state that is wrong, or from which no good end is in reach.
///
/// # Panics
/// When there are more than `states_max` states: the model has become too large for a test.
pub fn explore<M: Model>(model: &M, states_max: usize) -> Result<Explored, CounterExample> {
    let mut search = Search::<M>::begin(model);
    let mut moves = Vec::new();
    let mut looked_at = 0;
    while let Some(&state) = search.states.get(looked_at) {
        if let Some(wrong) = model.wrong(&state) {
            return Err(search.counter_example(wrong, looked_at));
        }
        moves.clear();
        model.moves(&state, &mut moves);
        for taken in &moves {
            search.take(looked_at, taken);
        }
        assert!(
            search.states.len() <= states_max,
            "more than {states_max} states"
        );
        looked_at += 1;
    }
    let ends: Vec<usize> = (0..looked_at)
        .filter(|&at| model.is_done(&search.states[at]))
        .collect();
    if let Some(stuck) = search.stuck(&ends) {
        let wrong = "stuck: no good end is in reach, even without a further fault".to_owned();
        return Err(search.counter_example(wrong, stuck));
    }
    Ok(Explored {
        states: looked_at,
        moves: search.moves,
        ends: ends.len(),
        depth: search.way_to(looked_at - 1).len(),
    })
}

struct Search<M: Model> {
    /// In the order in which they were found.
    states: Vec<M::State>,
    places: HashMap<M::State, usize>,
    /// The first way into each state; the start has none.
    came_by: Vec<Option<(usize, M::Step)>>,
    /// Steps that are no faults: (from, to).
    normal: Vec<(u32, u32)>,
    moves: usize,
}

impl<M: Model> Search<M> {
    fn begin(model: &M) -> Self {
        let start = model.start();
        Self {
            states: vec![start],
            places: HashMap::from([(start, 0)]),
            came_by: vec![None],
            normal: Vec::new(),
            moves: 0,
        }
    }

    fn take(&mut self, from: usize, taken: &Move<M>) {
        self.moves += 1;
        let to = match self.places.entry(taken.next) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                new.insert(self.states.len());
                self.states.push(taken.next);
                self.came_by.push(Some((from, taken.step)));
                self.states.len() - 1
            }
        };
        if taken.kind == Kind::Normal {
            let index = |at| u32::try_from(at).expect("a test has fewer states");
            self.normal.push((index(from), index(to)));
        }
    }

    /// The first state from which none of `ends` can be reached without a fault.
    fn stuck(&self, ends: &[usize]) -> Option<usize> {
        let into = Into::of(&self.normal, self.states.len());
        let mut reaches = vec![false; self.states.len()];
        let mut waiting = ends.to_vec();
        for &end in ends {
            reaches[end] = true;
        }
        while let Some(at) = waiting.pop() {
            for &from in into.from(at) {
                let from = from as usize;
                if !std::mem::replace(&mut reaches[from], true) {
                    waiting.push(from);
                }
            }
        }
        reaches.iter().position(|reaches| !reaches)
    }

    fn way_to(&self, mut at: usize) -> Vec<(usize, M::Step)> {
        let mut way = Vec::new();
        while let Some((from, step)) = self.came_by[at] {
            way.push((at, step));
            at = from;
        }
        way.reverse();
        way
    }

    fn counter_example(&self, wrong: String, at: usize) -> CounterExample {
        let way = self.way_to(at).into_iter();
        CounterExample {
            wrong,
            path: way
                .map(|(at, step)| (step.to_string(), format!("{:?}", self.states[at])))
                .collect(),
            states: self.states.len(),
        }
    }
}

/// Steps by where they lead to.
struct Into {
    /// Where the steps into a state begin in `from`; one more at the end.
    begins: Vec<u32>,
    from: Vec<u32>,
}

impl Into {
    /// Sorts by counting: there are millions.
    fn of(steps: &[(u32, u32)], states: usize) -> Self {
        let mut begins = vec![0_u32; states + 1];
        for &(_, to) in steps {
            begins[to as usize + 1] += 1;
        }
        for state in 0..states {
            begins[state + 1] += begins[state];
        }
        let mut next = begins.clone();
        let mut from = vec![0; steps.len()];
        for &(before, to) in steps {
            let place = &mut next[to as usize];
            from[*place as usize] = before;
            *place += 1;
        }
        Self { begins, from }
    }

    fn from(&self, state: usize) -> &[u32] {
        &self.from[self.begins[state] as usize..self.begins[state + 1] as usize]
    }
}
