//! Values behind handles that go stale when the value is removed.

/// Names a value in a [`Slab`]; stale once the value is removed, even if its place is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A vector whose places are used again, in a fixed order.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    /// Keeps `value`.
    pub(crate) fn insert(&mut self, value: T) -> Handle {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            debug_assert!(place.value.is_none(), "a free place is empty");
            place.value = Some(value);
            return Handle { slot, generation: place.generation };
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 values");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Handle { slot, generation: 0 }
    }

    /// The value, unless it was removed.
    pub(crate) fn get(&self, handle: Handle) -> Option<&T> {
        let place = self.slots.get(handle.slot as usize)?;
        if place.generation == handle.generation { place.value.as_ref() } else { None }
    }

    /// The value, unless it was removed.
    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let place = self.slots.get_mut(handle.slot as usize)?;
        if place.generation == handle.generation { place.value.as_mut() } else { None }
    }

    /// Takes the value out; its handle is stale from now on.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<T> {
        let place = self.slots.get_mut(handle.slot as usize)?;
        if place.generation != handle.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(handle.slot);
        Some(value)
    }

    /// Every value with its handle, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let handle = Handle { slot: slot as u32, generation: place.generation };
            place.value.as_ref().map(|value| (handle, value))
        })
    }

    /// How many values there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_goes_stale_although_its_place_is_used_again() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"second")));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 1);
    }
}
