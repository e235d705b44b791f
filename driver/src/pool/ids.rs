//! A small map by connection identifier that allocates nothing as entries come and go.

/// A map whose keys are counted up: a vector in their order. There are as many entries as a pool has
/// connections, so that moving them is cheaper than a tree's nodes.
#[derive(Debug)]
pub(super) struct IdMap<V> {
    entries: Vec<(u64, V)>,
}

impl<V> IdMap<V> {
    /// An empty map.
    pub(super) const fn new() -> Self {
        IdMap { entries: Vec::new() }
    }

    /// Adds an entry, or replaces the one of that identifier.
    pub(super) fn insert(&mut self, id: u64, value: V) {
        match self.find(id) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => self.entries.insert(at, (id, value)),
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, id: &u64) -> Option<V> {
        let at = self.find(*id).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// The entry of `id`.
    pub(super) fn get(&self, id: &u64) -> Option<&V> {
        let at = self.find(*id).ok()?;
        Some(&self.entries[at].1)
    }

    /// The identifiers in ascending order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &u64> {
        self.entries.iter().map(|(id, _)| id)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn find(&self, id: u64) -> Result<usize, usize> {
        // The newest is asked for most.
        match self.entries.last() {
            None => Err(0),
            Some((last, _)) if *last < id => Err(self.entries.len()),
            Some((last, _)) if *last == id => Ok(self.entries.len() - 1),
            Some(_) => self.entries.binary_search_by_key(&id, |(known, _)| *known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_in_their_order_wherever_they_came_in() {
        let mut map = IdMap::new();
        for id in [3, 1, 2, 9] {
            map.insert(id, id * 10);
        }
        map.insert(2, 21);
        assert_eq!(map.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 9]);
        assert_eq!((map.get(&2), map.get(&4), map.get(&10)), (Some(&21), None, None));
        assert_eq!((map.remove(&9), map.remove(&9), map.len()), (Some(90), None, 3));
    }
}
