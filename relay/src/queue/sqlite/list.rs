//! Lists of deliveries for people: page by page, oldest first, at a cost that depends on the page and not on the queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::super::envelope::State;
use super::super::error::StoreError;
use super::super::id::DeliveryKey;
use super::super::query::{Filter, Found};
use super::reader::{FROM, failed};
use super::row::{COLUMNS, DeliveryRow};
use super::{Catalog, Shared};

/// Deliveries behind `after` that match, oldest first.
pub(in super::super) fn page(
    shared: &Shared,
    connection: &Connection,
    filter: &Filter,
    after: Option<DeliveryKey>,
    limit: usize,
) -> Result<Vec<DeliveryRow>, StoreError> {
    let places = places(shared, filter);
    let list = List {
        shared,
        connection,
        filter,
    };
    match places.as_slice() {
        [Place::State(..), _, ..] => list.merged(&places, after, limit),
        _ => list.in_order(&places, after, limit),
    }
}

/// How many match.
pub(in super::super) fn count(
    shared: &Shared,
    connection: &Connection,
    filter: &Filter,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for place in places(shared, filter) {
        let (conditions, values) = conditions(filter, place, None);
        let query = format!("SELECT count(*), coalesce(sum(m.size), 0) {FROM} WHERE {conditions}");
        let (messages, bytes) = connection
            .query_row(&query, params_from_iter(values), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
            .map_err(failed)?;
        found.messages += messages.cast_unsigned();
        found.bytes += bytes.cast_unsigned();
    }
    Ok(found)
}

struct List<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    filter: &'a Filter,
}

impl List<'_> {
    /// Of places that follow each other.
    fn in_order(
        &self,
        places: &[Place],
        after: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut found = Vec::new();
        for place in places {
            if found.len() < limit {
                self.visit(*place, after, |row| {
                    found.push(row);
                    match found.len() < limit {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                })?;
            }
        }
        Ok(found)
    }

    /// Of places that each have an order of their own: only the next one of each is looked at. There may be a thousand
    /// domains, and a page of each would be a hundred times what is asked for.
    fn merged(
        &self,
        places: &[Place],
        after: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut next = Vec::with_capacity(places.len());
        let mut order = BinaryHeap::with_capacity(places.len());
        for (index, place) in places.iter().enumerate() {
            let row = self.first(*place, after)?;
            order.extend(row.iter().map(|row| Reverse((row.key, index))));
            next.push(row);
        }
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(Reverse((key, index))) = order.pop()
        {
            found.extend(next[index].take());
            if found.len() < limit {
                let row = self.first(places[index], Some(key))?;
                order.extend(row.iter().map(|row| Reverse((row.key, index))));
                next[index] = row;
            }
        }
        Ok(found)
    }

    fn first(
        &self,
        place: Place,
        after: Option<DeliveryKey>,
    ) -> Result<Option<DeliveryRow>, StoreError> {
        let mut first = None;
        self.visit(place, after, |row| {
            first = Some(row);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    fn visit(
        &self,
        place: Place,
        after: Option<DeliveryKey>,
        mut visitor: impl FnMut(DeliveryRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let (conditions, values) = conditions(self.filter, place, after);
        let query =
            format!("SELECT {COLUMNS} {FROM} WHERE {conditions} ORDER BY d.message, d.number");
        let mut statement = self.connection.prepare_cached(&query).map_err(failed)?;
        let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let row = DeliveryRow::read(row).map_err(failed)?;
            if self.is_wanted(&row) && visitor(row).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// A leased one is in no other state.
    fn is_wanted(&self, row: &DeliveryRow) -> bool {
        let Some(state) = self.filter.state else {
            return true;
        };
        let is_leased = self.shared.leases.holder(row.key).is_some();
        is_leased == (state == State::Leased)
    }
}

/// Where a filter has to look, so that every part is read in the order of an index.
#[derive(Clone, Copy, Debug)]
enum Place {
    All,
    Delivery(DeliveryKey),
    State(i64, State),
}

fn places(shared: &Shared, filter: &Filter) -> Vec<Place> {
    if filter.state == Some(State::Leased) {
        return shared
            .leases
            .keys()
            .into_iter()
            .map(Place::Delivery)
            .collect();
    }
    if filter.state.is_none() && filter.domain.is_none() {
        return vec![Place::All];
    }
    let catalog: &Catalog = &shared.catalog();
    let domain = filter
        .domain
        .as_ref()
        .map(|domain| catalog.keys.get(domain).copied());
    let wanted = |place: &(i64, State)| {
        domain.is_none_or(|key| key == Some(place.0))
            && filter.state.is_none_or(|state| state == place.1)
    };
    let present = catalog
        .totals
        .iter()
        .filter(|(_, amount)| amount.deliveries > 0);
    let present = present.map(|(place, _)| *place).filter(wanted);
    present
        .map(|(domain, state)| Place::State(domain, state))
        .collect()
}

/// The filter as SQL with its values. Texts of people only ever become values.
fn conditions(filter: &Filter, place: Place, after: Option<DeliveryKey>) -> (String, Vec<Value>) {
    let mut parts = vec!["1"];
    let mut values: Vec<Value> = Vec::new();
    let mut add = |part, part_values: Vec<Value>| {
        parts.push(part);
        values.extend(part_values);
    };
    match place {
        Place::All => {}
        Place::Delivery(key) => add(
            "d.message = ? AND d.number = ?",
            vec![key.message.0.into(), key.number.into()],
        ),
        Place::State(domain, state) => add(
            "d.domain = ? AND d.state = ?",
            vec![domain.into(), state.code().into()],
        ),
    }
    if let Some(key) = after {
        let values = vec![key.message.0.into(), key.number.into()];
        add("(d.message, d.number) > (?, ?)", values);
    }
    match filter.sender.as_deref() {
        None => {}
        Some("" | "<>") => add("m.reverse_path = ''", Vec::new()),
        Some(text) => add(
            "instr(lower(m.reverse_path), ?) > 0",
            vec![text.to_ascii_lowercase().into()],
        ),
    }
    if let Some(text) = &filter.recipient {
        let any = "EXISTS (SELECT 1 FROM json_each(d.recipients)
             WHERE instr(lower(json_extract(value, '$.to')), ?) > 0)";
        add(any, vec![text.to_ascii_lowercase().into()]);
    }
    if let Some(moment) = filter.received_before {
        add("m.received_at < ?", vec![moment.as_millisecond().into()]);
    }
    if let Some(octets) = filter.larger_than {
        add(
            "m.size > ?",
            vec![octets.min(i64::MAX as u64).cast_signed().into()],
        );
    }
    if let (Place::Delivery(_), Some(domain)) = (place, &filter.domain) {
        let name = "d.domain = (SELECT key FROM domain WHERE name = ?)";
        add(name, vec![domain.to_string().into()]);
    }
    (parts.join(" AND "), values)
}
