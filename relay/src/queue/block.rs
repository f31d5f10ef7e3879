//! Memory from which a disk can take octets as they are.

use super::spool::ALIGNMENT;

/// One hop between a session and the disk.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

/// Up to [`BLOCK_BYTES`] octets that begin at a multiple of [`ALIGNMENT`]. Without memory until it is used.
#[derive(Debug, Default)]
pub(super) struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Block {
    /// Takes as much as it has room for, and gives back the rest.
    pub(super) fn fill<'p>(&mut self, part: &'p [u8]) -> &'p [u8] {
        if self.memory.capacity() == 0 {
            // Never more than this, so it stays where it is.
            self.memory = Vec::with_capacity(BLOCK_BYTES + ALIGNMENT);
            self.start = self.memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
            self.memory.resize(self.start, 0);
        }
        let room = BLOCK_BYTES - self.octets().len();
        let (now, later) = part.split_at(room.min(part.len()));
        self.memory.extend_from_slice(now);
        later
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    pub(super) fn is_full(&self) -> bool {
        self.octets().len() == BLOCK_BYTES
    }

    /// Forgets the octets and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.memory.truncate(self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_where_a_disk_takes_it_and_never_moves() {
        let mut block = Block::default();
        assert_eq!(block.octets(), b"");
        let part = vec![7; 100_000];
        assert_eq!(block.fill(&part), b"");
        let place = block.octets().as_ptr();
        assert_eq!(place.align_offset(ALIGNMENT), 0);
        assert_eq!(block.fill(&part), b"");
        assert!(!block.is_full());
        assert_eq!(block.fill(&part).len(), 300_000 - BLOCK_BYTES);
        assert!(block.is_full());
        assert_eq!(block.octets().as_ptr(), place);
        block.clear();
        assert_eq!(block.fill(&part[..5]), b"");
        assert_eq!(
            (block.octets(), block.octets().as_ptr()),
            (&[7; 5][..], place)
        );
    }
}
