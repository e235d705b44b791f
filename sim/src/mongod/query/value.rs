//! One borrowed view of a BSON value, whether its bytes are decoded or not.
//!
//! Documents are checked when they enter a server; where malformed bytes are met all the same, a
//! document or array ends there.

use bson::oid::ObjectId;
use bson::raw::{RawArray, RawBsonRef, RawDbPointerRef, RawDocument, RawDocumentBuf, RawIter};
use bson::spec::BinarySubtype;
use bson::{
    Binary, Bson, DbPointer, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp,
};

use crate::mongod::error::{self, CommandError};

/// A BSON value, borrowed from raw bytes or from decoded BSON.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// The value below all others.
    MinKey,
    /// The deprecated undefined value.
    Undefined,
    /// Null.
    Null,
    /// A 32-bit integer.
    Int32(i32),
    /// A 64-bit integer.
    Int64(i64),
    /// A binary floating point number.
    Double(f64),
    /// A decimal floating point number.
    Decimal128(Decimal128),
    /// A string.
    String(&'a str),
    /// The deprecated symbol, which compares as a string.
    Symbol(&'a str),
    /// An embedded document.
    Document(DocumentRef<'a>),
    /// An array.
    Array(ArrayRef<'a>),
    /// Binary data: subtype and bytes.
    Binary(u8, &'a [u8]),
    /// An ObjectId.
    ObjectId(ObjectId),
    /// A boolean.
    Boolean(bool),
    /// Milliseconds since the Unix epoch.
    DateTime(i64),
    /// A timestamp.
    Timestamp(Timestamp),
    /// A regular expression: pattern and options.
    Regex(&'a str, &'a str),
    /// The deprecated DBPointer.
    DbPointer(DbPointerRef<'a>),
    /// JavaScript code.
    JavaScript(&'a str),
    /// The deprecated JavaScript code with scope.
    JavaScriptWithScope(&'a str, DocumentRef<'a>),
    /// The value above all others.
    MaxKey,
}

/// A DBPointer, whose parts bson keeps to itself.
#[derive(Clone, Copy, Debug)]
pub enum DbPointerRef<'a> {
    /// Borrowed from raw bytes.
    Raw(RawDbPointerRef<'a>),
    /// Borrowed from decoded BSON.
    Decoded(&'a DbPointer),
}

/// A document, borrowed from raw bytes or from decoded BSON.
#[derive(Clone, Copy, Debug)]
pub enum DocumentRef<'a> {
    /// Raw bytes.
    Raw(&'a RawDocument),
    /// Decoded BSON.
    Decoded(&'a Document),
}

/// An array, borrowed from raw bytes or from decoded BSON.
#[derive(Clone, Copy, Debug)]
pub enum ArrayRef<'a> {
    /// Raw bytes.
    Raw(&'a RawArray),
    /// Decoded BSON.
    Decoded(&'a [Bson]),
}

impl<'a> ValueRef<'a> {
    /// The place of the value's type in the server's order of types; types that compare with each
    /// other (all numbers; strings and symbols) share one.
    pub fn canonical_type(self) -> u8 {
        match self {
            ValueRef::MinKey => 1,
            ValueRef::Undefined => 2,
            ValueRef::Null => 5,
            ValueRef::Int32(_)
            | ValueRef::Int64(_)
            | ValueRef::Double(_)
            | ValueRef::Decimal128(_) => 10,
            ValueRef::String(_) | ValueRef::Symbol(_) => 15,
            ValueRef::Document(_) => 20,
            ValueRef::Array(_) => 25,
            ValueRef::Binary(..) => 30,
            ValueRef::ObjectId(_) => 35,
            ValueRef::Boolean(_) => 40,
            ValueRef::DateTime(_) => 45,
            ValueRef::Timestamp(_) => 47,
            ValueRef::Regex(..) => 50,
            ValueRef::DbPointer(_) => 55,
            ValueRef::JavaScript(_) => 60,
            ValueRef::JavaScriptWithScope(..) => 65,
            ValueRef::MaxKey => 127,
        }
    }

    /// The server's name of the type, as `$type` takes and answers it.
    pub fn type_name(self) -> &'static str {
        match self {
            ValueRef::MinKey => "minKey",
            ValueRef::Undefined => "undefined",
            ValueRef::Null => "null",
            ValueRef::Int32(_) => "int",
            ValueRef::Int64(_) => "long",
            ValueRef::Double(_) => "double",
            ValueRef::Decimal128(_) => "decimal",
            ValueRef::String(_) => "string",
            ValueRef::Symbol(_) => "symbol",
            ValueRef::Document(_) => "object",
            ValueRef::Array(_) => "array",
            ValueRef::Binary(..) => "binData",
            ValueRef::ObjectId(_) => "objectId",
            ValueRef::Boolean(_) => "bool",
            ValueRef::DateTime(_) => "date",
            ValueRef::Timestamp(_) => "timestamp",
            ValueRef::Regex(..) => "regex",
            ValueRef::DbPointer(_) => "dbPointer",
            ValueRef::JavaScript(_) => "javascript",
            ValueRef::JavaScriptWithScope(..) => "javascriptWithScope",
            ValueRef::MaxKey => "maxKey",
        }
    }

    /// The type's number on the wire; MinKey is -1.
    pub fn type_number(self) -> i32 {
        match self {
            ValueRef::MinKey => -1,
            ValueRef::Double(_) => 1,
            ValueRef::String(_) => 2,
            ValueRef::Document(_) => 3,
            ValueRef::Array(_) => 4,
            ValueRef::Binary(..) => 5,
            ValueRef::Undefined => 6,
            ValueRef::ObjectId(_) => 7,
            ValueRef::Boolean(_) => 8,
            ValueRef::DateTime(_) => 9,
            ValueRef::Null => 10,
            ValueRef::Regex(..) => 11,
            ValueRef::DbPointer(_) => 12,
            ValueRef::JavaScript(_) => 13,
            ValueRef::Symbol(_) => 14,
            ValueRef::JavaScriptWithScope(..) => 15,
            ValueRef::Int32(_) => 16,
            ValueRef::Timestamp(_) => 17,
            ValueRef::Int64(_) => 18,
            ValueRef::Decimal128(_) => 19,
            ValueRef::MaxKey => 127,
        }
    }

    /// Whether it is a number of any kind.
    pub fn is_number(self) -> bool {
        self.canonical_type() == 10
    }

    /// Whether it is null or undefined.
    pub fn is_nullish(self) -> bool {
        matches!(self, ValueRef::Null | ValueRef::Undefined)
    }

    /// The array, if it is one.
    pub fn as_array(self) -> Option<ArrayRef<'a>> {
        match self {
            ValueRef::Array(array) => Some(array),
            _ => None,
        }
    }

    /// The document, if it is one.
    pub fn as_document(self) -> Option<DocumentRef<'a>> {
        match self {
            ValueRef::Document(document) => Some(document),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            ValueRef::String(text) => Some(text),
            _ => None,
        }
    }

    /// Numbers but 0, true, and everything else but null and undefined: what the server holds for
    /// true where it wants a boolean.
    pub fn is_truthy(self) -> bool {
        match self {
            ValueRef::Boolean(value) => value,
            ValueRef::Null | ValueRef::Undefined => false,
            ValueRef::Int32(value) => value != 0,
            ValueRef::Int64(value) => value != 0,
            ValueRef::Double(value) => value != 0.0,
            ValueRef::Decimal128(value) => !super::decimal::Decimal::from_bson(value).is_zero(),
            _ => true,
        }
    }

    /// The decoded value.
    pub fn to_bson(self) -> Bson {
        match self {
            ValueRef::MinKey => Bson::MinKey,
            ValueRef::Undefined => Bson::Undefined,
            ValueRef::Null => Bson::Null,
            ValueRef::Int32(value) => Bson::Int32(value),
            ValueRef::Int64(value) => Bson::Int64(value),
            ValueRef::Double(value) => Bson::Double(value),
            ValueRef::Decimal128(value) => Bson::Decimal128(value),
            ValueRef::String(value) => Bson::String(value.to_owned()),
            ValueRef::Symbol(value) => Bson::Symbol(value.to_owned()),
            ValueRef::Document(value) => Bson::Document(value.to_document()),
            ValueRef::Array(value) => Bson::Array(value.to_vec()),
            ValueRef::Binary(subtype, bytes) => Bson::Binary(Binary {
                subtype: BinarySubtype::from(subtype),
                bytes: bytes.to_vec(),
            }),
            ValueRef::ObjectId(value) => Bson::ObjectId(value),
            ValueRef::Boolean(value) => Bson::Boolean(value),
            ValueRef::DateTime(millis) => Bson::DateTime(bson::DateTime::from_millis(millis)),
            ValueRef::Timestamp(value) => Bson::Timestamp(value),
            ValueRef::Regex(pattern, options) => {
                match (pattern.to_owned().try_into(), options.to_owned().try_into()) {
                    (Ok(pattern), Ok(options)) => {
                        Bson::RegularExpression(Regex { pattern, options })
                    }
                    // Both come from C strings, which hold no NUL.
                    _ => unreachable!("a C string holds no NUL"),
                }
            }
            ValueRef::DbPointer(DbPointerRef::Decoded(pointer)) => Bson::DbPointer(pointer.clone()),
            ValueRef::DbPointer(DbPointerRef::Raw(pointer)) => {
                Bson::try_from(RawBsonRef::DbPointer(pointer)).unwrap_or(Bson::Null)
            }
            ValueRef::JavaScript(code) => Bson::JavaScriptCode(code.to_owned()),
            ValueRef::JavaScriptWithScope(code, scope) => {
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                    code: code.to_owned(),
                    scope: scope.to_document(),
                })
            }
            ValueRef::MaxKey => Bson::MaxKey,
        }
    }
}

impl DbPointerRef<'_> {
    /// The pointer's bytes on the wire; what the server compares pointers by.
    pub fn to_bytes(self) -> Vec<u8> {
        let raw = match self {
            DbPointerRef::Raw(pointer) => {
                let mut raw = RawDocumentBuf::new();
                raw.append(bson::raw::cstr!(""), RawBsonRef::DbPointer(pointer));
                raw
            }
            DbPointerRef::Decoded(pointer) => {
                RawDocumentBuf::try_from(&bson::doc! { "": Bson::DbPointer(pointer.clone()) })
                    .unwrap_or_default()
            }
        };
        // Length, type and the empty name before it, the final NUL after it.
        raw.as_bytes().get(6..raw.as_bytes().len() - 1).unwrap_or_default().to_vec()
    }
}

impl<'a> From<RawBsonRef<'a>> for ValueRef<'a> {
    fn from(value: RawBsonRef<'a>) -> Self {
        match value {
            RawBsonRef::Double(value) => ValueRef::Double(value),
            RawBsonRef::String(value) => ValueRef::String(value),
            RawBsonRef::Array(value) => ValueRef::Array(ArrayRef::Raw(value)),
            RawBsonRef::Document(value) => ValueRef::Document(DocumentRef::Raw(value)),
            RawBsonRef::Boolean(value) => ValueRef::Boolean(value),
            RawBsonRef::Null => ValueRef::Null,
            RawBsonRef::RegularExpression(value) => {
                ValueRef::Regex(value.pattern.as_str(), value.options.as_str())
            }
            RawBsonRef::JavaScriptCode(code) => ValueRef::JavaScript(code),
            RawBsonRef::JavaScriptCodeWithScope(value) => {
                ValueRef::JavaScriptWithScope(value.code, DocumentRef::Raw(value.scope))
            }
            RawBsonRef::Int32(value) => ValueRef::Int32(value),
            RawBsonRef::Int64(value) => ValueRef::Int64(value),
            RawBsonRef::Timestamp(value) => ValueRef::Timestamp(value),
            RawBsonRef::Binary(value) => ValueRef::Binary(value.subtype.into(), value.bytes),
            RawBsonRef::ObjectId(value) => ValueRef::ObjectId(value),
            RawBsonRef::DateTime(value) => ValueRef::DateTime(value.timestamp_millis()),
            RawBsonRef::Symbol(value) => ValueRef::Symbol(value),
            RawBsonRef::Decimal128(value) => ValueRef::Decimal128(value),
            RawBsonRef::Undefined => ValueRef::Undefined,
            RawBsonRef::MaxKey => ValueRef::MaxKey,
            RawBsonRef::MinKey => ValueRef::MinKey,
            RawBsonRef::DbPointer(value) => ValueRef::DbPointer(DbPointerRef::Raw(value)),
        }
    }
}

impl<'a> From<&'a Bson> for ValueRef<'a> {
    fn from(value: &'a Bson) -> Self {
        match value {
            Bson::Double(value) => ValueRef::Double(*value),
            Bson::String(value) => ValueRef::String(value),
            Bson::Array(value) => ValueRef::Array(ArrayRef::Decoded(value)),
            Bson::Document(value) => ValueRef::Document(DocumentRef::Decoded(value)),
            Bson::Boolean(value) => ValueRef::Boolean(*value),
            Bson::Null => ValueRef::Null,
            Bson::RegularExpression(value) => {
                ValueRef::Regex(value.pattern.as_str(), value.options.as_str())
            }
            Bson::JavaScriptCode(code) => ValueRef::JavaScript(code),
            Bson::JavaScriptCodeWithScope(value) => {
                ValueRef::JavaScriptWithScope(&value.code, DocumentRef::Decoded(&value.scope))
            }
            Bson::Int32(value) => ValueRef::Int32(*value),
            Bson::Int64(value) => ValueRef::Int64(*value),
            Bson::Timestamp(value) => ValueRef::Timestamp(*value),
            Bson::Binary(value) => ValueRef::Binary(value.subtype.into(), &value.bytes),
            Bson::ObjectId(value) => ValueRef::ObjectId(*value),
            Bson::DateTime(value) => ValueRef::DateTime(value.timestamp_millis()),
            Bson::Symbol(value) => ValueRef::Symbol(value),
            Bson::Decimal128(value) => ValueRef::Decimal128(*value),
            Bson::Undefined => ValueRef::Undefined,
            Bson::MaxKey => ValueRef::MaxKey,
            Bson::MinKey => ValueRef::MinKey,
            Bson::DbPointer(value) => ValueRef::DbPointer(DbPointerRef::Decoded(value)),
        }
    }
}

impl<'a> From<&'a RawDocument> for DocumentRef<'a> {
    fn from(document: &'a RawDocument) -> Self {
        DocumentRef::Raw(document)
    }
}

impl<'a> From<&'a RawDocumentBuf> for DocumentRef<'a> {
    fn from(document: &'a RawDocumentBuf) -> Self {
        DocumentRef::Raw(document)
    }
}

impl<'a> From<&'a Document> for DocumentRef<'a> {
    fn from(document: &'a Document) -> Self {
        DocumentRef::Decoded(document)
    }
}

impl<'a> DocumentRef<'a> {
    /// The fields in their order.
    pub fn iter(self) -> Fields<'a> {
        match self {
            DocumentRef::Raw(document) => Fields::Raw(document.iter_elements()),
            DocumentRef::Decoded(document) => Fields::Decoded(document.iter()),
        }
    }

    /// The value of the (first) field `name`.
    pub fn get(self, name: &str) -> Option<ValueRef<'a>> {
        match self {
            DocumentRef::Raw(document) => document
                .iter_elements()
                .map_while(Result::ok)
                .find(|element| element.key().as_str() == name)
                .and_then(|element| element.value().ok())
                .map(ValueRef::from),
            DocumentRef::Decoded(document) => document.get(name).map(ValueRef::from),
        }
    }

    /// Whether it has no field.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// The decoded document.
    pub fn to_document(self) -> Document {
        match self {
            DocumentRef::Decoded(document) => document.clone(),
            DocumentRef::Raw(_) => {
                self.iter().map(|(name, value)| (name.to_owned(), value.to_bson())).collect()
            }
        }
    }
}

impl<'a> ArrayRef<'a> {
    /// The elements in their order.
    pub fn iter(self) -> Elements<'a> {
        match self {
            ArrayRef::Raw(array) => Elements::Raw(array.iter_elements()),
            ArrayRef::Decoded(array) => Elements::Decoded(array.iter()),
        }
    }

    /// The element at `index`, from 0.
    pub fn get(self, index: usize) -> Option<ValueRef<'a>> {
        match self {
            ArrayRef::Raw(_) => self.iter().nth(index),
            ArrayRef::Decoded(array) => array.get(index).map(ValueRef::from),
        }
    }

    /// How many elements it has.
    pub fn len(self) -> usize {
        match self {
            ArrayRef::Raw(_) => self.iter().count(),
            ArrayRef::Decoded(array) => array.len(),
        }
    }

    /// Whether it has no element.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// The decoded elements.
    pub fn to_vec(self) -> Vec<Bson> {
        self.iter().map(ValueRef::to_bson).collect()
    }
}

/// Iterates over a document's fields.
pub enum Fields<'a> {
    /// Over raw bytes.
    Raw(RawIter<'a>),
    /// Over decoded BSON.
    Decoded(bson::document::Iter<'a>),
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, ValueRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Fields::Raw(fields) => {
                let element = fields.next()?.ok()?;
                Some((element.key().as_str(), element.value().ok()?.into()))
            }
            Fields::Decoded(fields) => {
                fields.next().map(|(name, value)| (name.as_str(), value.into()))
            }
        }
    }
}

/// Iterates over an array's elements.
pub enum Elements<'a> {
    /// Over raw bytes.
    Raw(RawIter<'a>),
    /// Over decoded BSON.
    Decoded(std::slice::Iter<'a, Bson>),
}

impl<'a> Iterator for Elements<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Elements::Raw(elements) => Some(elements.next()?.ok()?.value().ok()?.into()),
            Elements::Decoded(elements) => elements.next().map(ValueRef::from),
        }
    }
}

/// The deepest nesting of documents and arrays that a server takes.
pub const MAX_DEPTH: usize = 200;

/// Refuses documents nested deeper than [`MAX_DEPTH`], and malformed ones. What reads documents in
/// this room descends by recursion, so this must stand before it for whatever a client sends.
///
/// # Errors
/// `Overflow` for too deep a nesting, `InvalidBSON` for malformed bytes.
pub fn check_nesting(document: &RawDocument) -> Result<(), CommandError> {
    let mut open = vec![document.iter_elements()];
    while let Some(fields) = open.last_mut() {
        let Some(element) = fields.next() else {
            open.pop();
            continue;
        };
        let value = element.and_then(|element| element.value());
        match value {
            Ok(RawBsonRef::Document(below)) => open.push(below.iter_elements()),
            Ok(RawBsonRef::Array(below)) => open.push(below.iter_elements()),
            Ok(RawBsonRef::JavaScriptCodeWithScope(code)) => open.push(code.scope.iter_elements()),
            Ok(_) => {}
            Err(reason) => {
                return Err(CommandError::new(error::INVALID_BSON, reason.to_string()));
            }
        }
        if open.len() > MAX_DEPTH {
            let message = format!("BSONObj exceeded maximum nested object depth: {MAX_DEPTH}");
            return Err(CommandError::new(error::OVERFLOW, message));
        }
    }
    Ok(())
}

/// The bytes of a decoded document.
///
/// # Panics
/// If a key holds a NUL byte, which no document that came over the wire can.
pub fn to_raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("keys that came over the wire hold no NUL")
}

#[cfg(test)]
mod tests {
    use bson::{bson, doc};

    use super::*;

    #[test]
    fn too_deep_a_nesting_is_refused_before_anything_descends_into_it() {
        let nested = |depth: usize| {
            let value = (1..depth).fold(bson!(1), |below, _| bson!([below]));
            to_raw(&doc! { "a": value })
        };
        assert_eq!(check_nesting(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(check_nesting(&nested(MAX_DEPTH + 1)).unwrap_err().code, error::OVERFLOW);
    }
}
