//! The server's order of BSON values: by type first, then by value.

use std::cmp::Ordering;

use bson::Bson;

use super::collation::Collation;
use super::number::compare_numbers;
use super::value::{DocumentRef, ValueRef};

/// Compares two values as the server sorts them, strings by their bytes.
pub fn compare<'a>(a: impl Into<ValueRef<'a>>, b: impl Into<ValueRef<'a>>) -> Ordering {
    compare_collated(a.into(), b.into(), Collation::Simple)
}

/// Compares two values as the server sorts them, strings by `collation`.
pub fn compare_collated(a: ValueRef<'_>, b: ValueRef<'_>, collation: Collation) -> Ordering {
    let types = a.canonical_type().cmp(&b.canonical_type());
    types.then_with(|| compare_same_type(a, b, collation))
}

/// Whether two values are equal in that order: 1 equals 1.0, but `{a: 1, b: 1}` is not `{b: 1, a: 1}`.
pub fn equal<'a>(a: impl Into<ValueRef<'a>>, b: impl Into<ValueRef<'a>>) -> bool {
    compare(a, b).is_eq()
}

/// Compares two documents field by field: type, then name, then value; a prefix is less.
pub fn compare_documents(a: DocumentRef<'_>, b: DocumentRef<'_>, collation: Collation) -> Ordering {
    let (mut left, mut right) = (a.iter(), b.iter());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some((left_name, left)), Some((right_name, right))) => {
                let order = left
                    .canonical_type()
                    .cmp(&right.canonical_type())
                    .then_with(|| left_name.cmp(right_name))
                    .then_with(|| compare_same_type(left, right, collation));
                if order.is_ne() {
                    return order;
                }
            }
        }
    }
}

/// Whether two values are the same bytes: type, value, names and order. What decides whether an
/// update changed anything.
pub fn identical(a: &Bson, b: &Bson) -> bool {
    match (a, b) {
        (Bson::Document(a), Bson::Document(b)) => identical_documents(a, b),
        (Bson::Array(a), Bson::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| identical(a, b))
        }
        (Bson::Double(a), Bson::Double(b)) => a.to_bits() == b.to_bits(),
        (Bson::JavaScriptCodeWithScope(a), Bson::JavaScriptCodeWithScope(b)) => {
            a.code == b.code && identical_documents(&a.scope, &b.scope)
        }
        _ => a == b,
    }
}

/// Whether two documents are the same bytes. (`==` on documents ignores the order of fields.)
pub fn identical_documents(a: &bson::Document, b: &bson::Document) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((name_a, a), (name_b, b))| name_a == name_b && identical(a, b))
}

fn compare_same_type(a: ValueRef<'_>, b: ValueRef<'_>, collation: Collation) -> Ordering {
    use ValueRef as V;
    match (a, b) {
        (V::String(a) | V::Symbol(a), V::String(b) | V::Symbol(b)) => match collation {
            Collation::Simple => a.cmp(b),
            _ => collation.key(a).cmp(&collation.key(b)),
        },
        (V::Document(a), V::Document(b)) => compare_documents(a, b, collation),
        (V::Array(a), V::Array(b)) => {
            let (mut left, mut right) = (a.iter(), b.iter());
            loop {
                match (left.next(), right.next()) {
                    (None, None) => return Ordering::Equal,
                    (None, Some(_)) => return Ordering::Less,
                    (Some(_), None) => return Ordering::Greater,
                    (Some(a), Some(b)) => {
                        let order = compare_collated(a, b, collation);
                        if order.is_ne() {
                            return order;
                        }
                    }
                }
            }
        }
        (V::Binary(subtype_a, a), V::Binary(subtype_b, b)) => {
            a.len().cmp(&b.len()).then(subtype_a.cmp(&subtype_b)).then_with(|| a.cmp(b))
        }
        (V::ObjectId(a), V::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (V::Boolean(a), V::Boolean(b)) => a.cmp(&b),
        (V::DateTime(a), V::DateTime(b)) => a.cmp(&b),
        (V::Timestamp(a), V::Timestamp(b)) => a.cmp(&b),
        (V::Regex(pattern_a, options_a), V::Regex(pattern_b, options_b)) => {
            pattern_a.cmp(pattern_b).then_with(|| options_a.cmp(options_b))
        }
        (V::DbPointer(a), V::DbPointer(b)) => a.to_bytes().cmp(&b.to_bytes()),
        (V::JavaScript(a), V::JavaScript(b)) => a.cmp(b),
        (V::JavaScriptWithScope(code_a, a), V::JavaScriptWithScope(code_b, b)) => {
            code_a.cmp(code_b).then_with(|| compare_documents(a, b, collation))
        }
        _ if a.is_number() && b.is_number() => compare_numbers(a, b),
        // MinKey, MaxKey, null, undefined: one value each.
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bson::oid::ObjectId;
    use bson::{Timestamp, bson, doc};
    use proptest::prelude::*;

    use super::*;

    /// Any BSON value, nested a little, with numbers that meet across types.
    pub fn any_bson() -> impl Strategy<Value = Bson> {
        let leaf = prop_oneof![
            Just(Bson::Null),
            Just(Bson::MinKey),
            Just(Bson::MaxKey),
            any::<bool>().prop_map(Bson::Boolean),
            (-3..3_i32).prop_map(Bson::Int32),
            any::<i32>().prop_map(Bson::Int32),
            any::<i64>().prop_map(Bson::Int64),
            (-3..3_i64).prop_map(Bson::Int64),
            any::<i64>().prop_map(|bits| Bson::Double(bits as f64)),
            any::<u64>().prop_map(|bits| Bson::Double(f64::from_bits(bits))),
            (-12..12_i32).prop_map(|quarters| Bson::Double(f64::from(quarters) / 4.0)),
            (-9999..9999_i64, -3..3_i32).prop_map(|(coefficient, exponent)| {
                Bson::Decimal128(format!("{coefficient}E{exponent}").parse().unwrap())
            }),
            "[ab\\x00é]{0,3}".prop_map(Bson::String),
            any::<i64>().prop_map(|millis| Bson::DateTime(bson::DateTime::from_millis(millis))),
            any::<(u32, u32)>()
                .prop_map(|(time, increment)| { Bson::Timestamp(Timestamp { time, increment }) }),
            any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(subtype, bytes)| {
                Bson::Binary(bson::Binary { subtype: subtype.into(), bytes })
            }),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
                prop::collection::vec(("[a-c]{1,2}", inner), 0..3)
                    .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn types_sort_in_the_servers_order() {
        let ascending = [
            Bson::MinKey,
            Bson::Undefined,
            Bson::Null,
            bson!(7),
            bson!("a"),
            bson!({ "a": 1 }),
            bson!([1]),
            Bson::Binary(bson::Binary { subtype: 0.into(), bytes: vec![] }),
            Bson::ObjectId(ObjectId::from_bytes([0; 12])),
            bson!(false),
            Bson::DateTime(bson::DateTime::from_millis(0)),
            Bson::Timestamp(Timestamp { time: 0, increment: 1 }),
            Bson::RegularExpression(bson::Regex {
                pattern: "a".to_owned().try_into().unwrap(),
                options: String::new().try_into().unwrap(),
            }),
            Bson::MaxKey,
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(&pair[0], &pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn numbers_are_equal_across_types_and_documents_only_in_the_same_order() {
        assert!(equal(&bson!(1), &bson!(1.0)));
        assert!(equal(&bson!({ "a": 1 }), &bson!({ "a": 1_i64 })));
        assert!(!equal(&bson!({ "a": 1, "b": 1 }), &bson!({ "b": 1, "a": 1 })));
        assert!(!identical(&bson!(1), &bson!(1.0)));
        assert!(!identical_documents(&doc! { "a": 1, "b": 1 }, &doc! { "b": 1, "a": 1 }));
    }

    #[test]
    fn a_field_of_a_lesser_type_comes_before_a_lesser_name() {
        assert_eq!(compare(&bson!({ "b": 1 }), &bson!({ "a": "x" })), Ordering::Less);
        assert_eq!(compare(&bson!({ "a": 1 }), &bson!({ "a": 1, "b": 1 })), Ordering::Less);
    }

    proptest! {
        #[test]
        fn comparing_raw_bytes_and_decoded_values_gives_the_same(a in any_bson(), b in any_bson()) {
            let raw = |value: &Bson| super::super::value::to_raw(&doc! { "v": value.clone() });
            let (raw_a, raw_b) = (raw(&a), raw(&b));
            let value = |raw| DocumentRef::Raw(raw).get("v").unwrap();
            prop_assert_eq!(compare(value(&raw_a), value(&raw_b)), compare(&a, &b));
        }

        #[test]
        fn the_order_is_total(a in any_bson(), b in any_bson(), c in any_bson()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
