//! Dotted paths and how a filter follows them through arrays.

use super::value::{ArrayRef, DocumentRef, ValueRef};

/// A dotted path, split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    dotted: String,
    parts: Vec<Part>,
}

/// One component of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The component's text.
    pub name: String,
    /// The place in an array it may name: digits without a leading zero.
    pub index: Option<usize>,
}

/// What is done with an array at a path's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafArray {
    /// Its elements are visited, then the array itself.
    Traverse,
    /// Only the array itself is visited.
    Whole,
}

/// The place in an array a component may name: digits without a leading zero.
pub fn array_index(name: &str) -> Option<usize> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    if digits && (name == "0" || !name.starts_with('0')) { name.parse().ok() } else { None }
}

impl Path {
    /// Splits `dotted` at its dots.
    pub fn new(dotted: &str) -> Path {
        let part = |name: &str| Part { name: name.to_owned(), index: array_index(name) };
        Path { dotted: dotted.to_owned(), parts: dotted.split('.').map(part).collect() }
    }

    /// The path as it was written.
    pub fn dotted(&self) -> &str {
        &self.dotted
    }

    /// The components.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Visits every value the path leads to, as a filter sees it: an array before the path's end stands
    /// for its documents (and for the element its index names), one at the end for its elements and
    /// itself (by `leaf`). `None` is a missing value. The second argument is the index in the
    /// outermost array passed. The visitor answers whether to stop; so does this.
    ///
    /// # Errors
    /// What the visitor fails with.
    pub fn visit<'a, E>(
        &self,
        document: DocumentRef<'a>,
        leaf: LeafArray,
        visitor: &mut impl FnMut(Option<ValueRef<'a>>, Option<usize>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        visit_document(document, &self.parts, leaf, None, visitor)
    }
}

fn visit_document<'a, E>(
    document: DocumentRef<'a>,
    parts: &[Part],
    leaf: LeafArray,
    outer: Option<usize>,
    visitor: &mut impl FnMut(Option<ValueRef<'a>>, Option<usize>) -> Result<bool, E>,
) -> Result<bool, E> {
    let (part, rest) = parts.split_first().expect("a path has a component");
    let Some(value) = document.get(&part.name) else { return visitor(None, outer) };
    if rest.is_empty() {
        return visit_leaf(value, leaf, outer, visitor);
    }
    match value {
        ValueRef::Document(document) => visit_document(document, rest, leaf, outer, visitor),
        ValueRef::Array(array) => visit_array(array, rest, leaf, outer, visitor),
        _ => visitor(None, outer),
    }
}

fn visit_array<'a, E>(
    array: ArrayRef<'a>,
    parts: &[Part],
    leaf: LeafArray,
    outer: Option<usize>,
    visitor: &mut impl FnMut(Option<ValueRef<'a>>, Option<usize>) -> Result<bool, E>,
) -> Result<bool, E> {
    let (part, rest) = parts.split_first().expect("a path has a component");
    for (index, element) in array.iter().enumerate() {
        let outer = outer.or(Some(index));
        if let ValueRef::Document(document) = element
            && visit_document(document, parts, leaf, outer, visitor)?
        {
            return Ok(true);
        }
        if part.index != Some(index) {
            continue;
        }
        let stop = match element {
            // An element that the path names is itself the end: its own elements are not visited.
            _ if rest.is_empty() => visitor(Some(element), outer)?,
            ValueRef::Document(document) => visit_document(document, rest, leaf, outer, visitor)?,
            ValueRef::Array(inner) => visit_indexed(inner, rest, leaf, outer, visitor)?,
            _ => false,
        };
        if stop {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Below an element that was named by its index, an array is passed by index alone.
fn visit_indexed<'a, E>(
    array: ArrayRef<'a>,
    parts: &[Part],
    leaf: LeafArray,
    outer: Option<usize>,
    visitor: &mut impl FnMut(Option<ValueRef<'a>>, Option<usize>) -> Result<bool, E>,
) -> Result<bool, E> {
    let (part, rest) = parts.split_first().expect("a path has a component");
    match (part.index.and_then(|index| array.get(index)), rest.is_empty()) {
        (None, _) => visitor(None, outer),
        (Some(value), true) => visit_leaf(value, leaf, outer, visitor),
        (Some(ValueRef::Document(document)), false) => {
            visit_document(document, rest, leaf, outer, visitor)
        }
        (Some(ValueRef::Array(inner)), false) => visit_array(inner, rest, leaf, outer, visitor),
        (Some(_), false) => visitor(None, outer),
    }
}

fn visit_leaf<'a, E>(
    value: ValueRef<'a>,
    leaf: LeafArray,
    outer: Option<usize>,
    visitor: &mut impl FnMut(Option<ValueRef<'a>>, Option<usize>) -> Result<bool, E>,
) -> Result<bool, E> {
    if let (ValueRef::Array(array), LeafArray::Traverse) = (value, leaf) {
        for (index, element) in array.iter().enumerate() {
            if visitor(Some(element), outer.or(Some(index)))? {
                return Ok(true);
            }
        }
    }
    visitor(Some(value), outer)
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, bson, doc};

    use super::*;

    fn visited(document: &Document, path: &str) -> Vec<Option<Bson>> {
        let mut values = Vec::new();
        let mut visitor = |value: Option<ValueRef<'_>>, _| {
            values.push(value.map(ValueRef::to_bson));
            Ok::<bool, ()>(false)
        };
        Path::new(path).visit(document.into(), LeafArray::Traverse, &mut visitor).unwrap();
        values
    }

    #[test]
    fn an_array_at_the_end_is_its_elements_and_itself() {
        let document = doc! { "a": [1, [2]] };
        let expected = [bson!(1), bson!([2]), bson!([1, [2]])].map(Some);
        assert_eq!(visited(&document, "a"), expected);
    }

    #[test]
    fn an_array_on_the_way_is_its_documents() {
        let document = doc! { "a": [{ "b": 1 }, 5, {}, { "b": [2] }] };
        let expected = [Some(bson!(1)), None, Some(bson!(2)), Some(bson!([2]))];
        assert_eq!(visited(&document, "a.b"), expected);
        assert_eq!(visited(&doc! { "a": [] }, "a.b"), []);
        assert_eq!(visited(&doc! { "a": 5 }, "a.b"), [None]);
    }

    #[test]
    fn a_number_names_a_place_and_a_field_alike() {
        assert_eq!(visited(&doc! { "a": [5, [2, 4], 3] }, "a.1"), [Some(bson!([2, 4]))]);
        let document = doc! { "a": [5, { "1": 4 }] };
        assert_eq!(visited(&document, "a.1"), [Some(bson!(4)), Some(bson!({ "1": 4 }))]);
    }
}
