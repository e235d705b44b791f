//! The table of operators that evaluate all their arguments; comparison, booleans, sets.

use std::cmp::Ordering;

use bson::Bson;

use crate::mongod::error::CommandError;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::value::ValueRef;

use super::{Value, arithmetic, array, date, object, parts, string, truthy, type_name, types};

/// An operator.
pub(super) struct Operator {
    pub name: &'static str,
    /// The least and the greatest number of arguments.
    pub arity: (usize, usize),
    pub function: fn(&Call<'_>) -> Result<Value, CommandError>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One application of an operator.
pub(super) struct Call<'a> {
    pub name: &'static str,
    pub arguments: &'a [Value],
    pub collation: Collation,
}

impl Call<'_> {
    /// The argument at `index`; missing if there is none.
    pub(super) fn get(&self, index: usize) -> &Value {
        const MISSING: &Value = &None;
        self.arguments.get(index).unwrap_or(MISSING)
    }

    /// The only argument, or the elements of the only argument if that is an array: how accumulators
    /// take their arguments when they stand as expressions.
    pub(super) fn spread(&self) -> Vec<Value> {
        match self.arguments {
            [Some(Bson::Array(array))] => array.iter().cloned().map(Some).collect(),
            arguments => arguments.to_vec(),
        }
    }
}

const MANY: usize = usize::MAX;

macro_rules! operators {
    ($($name:literal $least:tt ..= $most:tt => $function:expr;)*) => {
        static OPERATORS: &[Operator] = &[
            $(Operator { name: $name, arity: ($least, $most), function: $function },)*
        ];
    };
}

operators! {
    "$abs" 1..=1 => arithmetic::abs;
    "$acos" 1..=1 => parts::trigonometry;
    "$acosh" 1..=1 => parts::trigonometry;
    "$add" 0..=MANY => arithmetic::add;
    "$allElementsTrue" 1..=1 => all_elements_true;
    "$anyElementTrue" 1..=1 => any_element_true;
    "$arrayElemAt" 2..=2 => array::array_elem_at;
    "$arrayToObject" 1..=1 => object::array_to_object;
    "$asin" 1..=1 => parts::trigonometry;
    "$asinh" 1..=1 => parts::trigonometry;
    "$atan" 1..=1 => parts::trigonometry;
    "$atan2" 2..=2 => parts::atan2;
    "$atanh" 1..=1 => parts::trigonometry;
    "$avg" 0..=MANY => arithmetic::avg;
    "$binarySize" 1..=1 => parts::binary_size;
    "$bsonSize" 1..=1 => object::bson_size;
    "$ceil" 1..=1 => arithmetic::ceil;
    "$cmp" 2..=2 => |call| Ok(Some(Bson::Int32(order(call) as i32)));
    "$concat" 0..=MANY => string::concat;
    "$concatArrays" 0..=MANY => array::concat_arrays;
    "$cos" 1..=1 => parts::trigonometry;
    "$cosh" 1..=1 => parts::trigonometry;
    "$dayOfMonth" 1..=1 => date::part;
    "$dayOfWeek" 1..=1 => date::part;
    "$dayOfYear" 1..=1 => date::part;
    "$degreesToRadians" 1..=1 => parts::trigonometry;
    "$divide" 2..=2 => arithmetic::divide;
    "$eq" 2..=2 => |call| Ok(Some(Bson::Boolean(order(call).is_eq())));
    "$exp" 1..=1 => arithmetic::real;
    "$first" 1..=1 => array::first;
    "$floor" 1..=1 => arithmetic::floor;
    "$gt" 2..=2 => |call| Ok(Some(Bson::Boolean(order(call).is_gt())));
    "$gte" 2..=2 => |call| Ok(Some(Bson::Boolean(order(call).is_ge())));
    "$hour" 1..=1 => date::part;
    "$in" 2..=2 => array::is_in;
    "$indexOfArray" 2..=4 => array::index_of_array;
    "$indexOfBytes" 2..=4 => string::index_of;
    "$indexOfCP" 2..=4 => string::index_of;
    "$isArray" 1..=1 => array::is_array;
    "$isNumber" 1..=1 => types::is_number;
    "$isoDayOfWeek" 1..=1 => date::part;
    "$isoWeek" 1..=1 => date::part;
    "$isoWeekYear" 1..=1 => date::part;
    "$last" 1..=1 => array::last;
    "$ln" 1..=1 => arithmetic::real;
    "$log" 2..=2 => arithmetic::log;
    "$log10" 1..=1 => arithmetic::real;
    "$lt" 2..=2 => |call| Ok(Some(Bson::Boolean(order(call).is_lt())));
    "$lte" 2..=2 => |call| Ok(Some(Bson::Boolean(order(call).is_le())));
    "$max" 0..=MANY => arithmetic::extreme;
    "$mergeObjects" 0..=MANY => object::merge_objects;
    "$millisecond" 1..=1 => date::part;
    "$min" 0..=MANY => arithmetic::extreme;
    "$minute" 1..=1 => date::part;
    "$mod" 2..=2 => arithmetic::modulo;
    "$month" 1..=1 => date::part;
    "$multiply" 0..=MANY => arithmetic::multiply;
    "$ne" 2..=2 => |call| Ok(Some(Bson::Boolean(order(call).is_ne())));
    "$not" 1..=1 => |call| Ok(Some(Bson::Boolean(!truthy(call.get(0)))));
    "$objectToArray" 1..=1 => object::object_to_array;
    "$pow" 2..=2 => arithmetic::pow;
    "$radiansToDegrees" 1..=1 => parts::trigonometry;
    "$range" 2..=3 => array::range;
    "$reverseArray" 1..=1 => array::reverse_array;
    "$round" 1..=2 => arithmetic::round;
    "$second" 1..=1 => date::part;
    "$setDifference" 2..=2 => set_difference;
    "$setEquals" 2..=MANY => set_equals;
    "$setIntersection" 0..=MANY => set_intersection;
    "$setIsSubset" 2..=2 => set_is_subset;
    "$setUnion" 0..=MANY => set_union;
    "$sin" 1..=1 => parts::trigonometry;
    "$sinh" 1..=1 => parts::trigonometry;
    "$size" 1..=1 => array::size;
    "$slice" 2..=3 => array::slice;
    "$split" 2..=2 => string::split;
    "$sqrt" 1..=1 => arithmetic::sqrt;
    "$stdDevPop" 0..=MANY => parts::deviation;
    "$stdDevSamp" 0..=MANY => parts::deviation;
    "$strLenBytes" 1..=1 => string::length;
    "$strLenCP" 1..=1 => string::length;
    "$strcasecmp" 2..=2 => string::strcasecmp;
    "$substr" 3..=3 => string::substr;
    "$substrBytes" 3..=3 => string::substr;
    "$substrCP" 3..=3 => string::substr_cp;
    "$subtract" 2..=2 => arithmetic::subtract;
    "$sum" 0..=MANY => arithmetic::sum;
    "$tan" 1..=1 => parts::trigonometry;
    "$tanh" 1..=1 => parts::trigonometry;
    "$toBool" 1..=1 => types::convert_by_name;
    "$toDate" 1..=1 => types::convert_by_name;
    "$toDecimal" 1..=1 => types::convert_by_name;
    "$toDouble" 1..=1 => types::convert_by_name;
    "$toInt" 1..=1 => types::convert_by_name;
    "$toLong" 1..=1 => types::convert_by_name;
    "$toLower" 1..=1 => string::change_case;
    "$toObjectId" 1..=1 => types::convert_by_name;
    "$toString" 1..=1 => types::convert_by_name;
    "$toUpper" 1..=1 => string::change_case;
    "$trunc" 1..=2 => arithmetic::round;
    "$tsIncrement" 1..=1 => date::timestamp_part;
    "$tsSecond" 1..=1 => date::timestamp_part;
    "$type" 1..=1 => |call| Ok(Some(Bson::String(type_name(call.get(0)).into())));
    "$week" 1..=1 => date::part;
    "$year" 1..=1 => date::part;
}

/// The operator of that name, dollar included.
pub(super) fn find(name: &str) -> Option<&'static Operator> {
    OPERATORS.iter().find(|operator| operator.name == name)
}

impl Operator {
    /// Refuses a wrong number of arguments, in the server's words.
    pub(super) fn check_arity(&self, given: usize) -> Result<(), CommandError> {
        let (least, most) = self.arity;
        if (least..=most).contains(&given) {
            return Ok(());
        }
        let name = self.name;
        let of_dates = [
            "$year",
            "$month",
            "$dayOfMonth",
            "$dayOfWeek",
            "$dayOfYear",
            "$hour",
            "$minute",
            "$second",
            "$millisecond",
            "$week",
            "$isoWeek",
            "$isoWeekYear",
            "$isoDayOfWeek",
        ];
        if of_dates.contains(&name) {
            let message = format!(
                "{name} accepts exactly one argument if given an array, but was given {given}"
            );
            return Err(CommandError::new(40536, message));
        }
        if name == "$setEquals" {
            let message = format!("$setEquals needs at least two arguments had: {given}");
            return Err(CommandError::new(17045, message));
        }
        if least == most {
            let message = format!(
                "Expression {name} takes exactly {least} arguments. {given} were passed in."
            );
            return Err(CommandError::new(16020, message));
        }
        let message = format!(
            "Expression {name} takes at least {least} arguments, and at most {most}, but {given} \
             were passed in."
        );
        Err(CommandError::new(28667, message))
    }
}

/// Compares values of which some may be missing; missing is below null.
pub(super) fn compare_values(a: &Value, b: &Value, collation: Collation) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        // Missing shares its place with undefined: above MinKey, below null.
        (None, Some(b)) => missing_against(b),
        (Some(a), None) => missing_against(a).reverse(),
        (Some(a), Some(b)) => compare_collated(a.into(), b.into(), collation),
    }
}

fn missing_against(value: &Bson) -> Ordering {
    match value {
        Bson::MinKey => Ordering::Greater,
        _ => Ordering::Less,
    }
}

fn order(call: &Call<'_>) -> Ordering {
    compare_values(call.get(0), call.get(1), call.collation)
}

fn boolean_array<'a>(call: &'a Call<'_>, code: i32) -> Result<&'a [Bson], CommandError> {
    match call.get(0) {
        Some(Bson::Array(array)) => Ok(array),
        other => Err(CommandError::new(
            code,
            format!("{}'s argument must be an array, but is {}", call.name, type_name(other)),
        )),
    }
}

fn all_elements_true(call: &Call<'_>) -> Result<Value, CommandError> {
    let array = boolean_array(call, 17040)?;
    let all = array.iter().all(|element| ValueRef::from(element).is_truthy());
    Ok(Some(Bson::Boolean(all)))
}

fn any_element_true(call: &Call<'_>) -> Result<Value, CommandError> {
    let array = boolean_array(call, 17041)?;
    let any = array.iter().any(|element| ValueRef::from(element).is_truthy());
    Ok(Some(Bson::Boolean(any)))
}

/// The array arguments of a set operator; `None` if one is null and the answer is null.
fn sets<'a>(
    call: &'a Call<'_>,
    code: i32,
    null_is_null: bool,
) -> Result<Option<Vec<&'a [Bson]>>, CommandError> {
    let mut sets: Vec<&[Bson]> = Vec::new();
    for value in call.arguments {
        match value {
            Some(Bson::Array(array)) => sets.push(array),
            value if null_is_null && super::is_nullish(value) => return Ok(None),
            value => {
                let message = format!(
                    "All operands of {} must be arrays. One argument is of type: {}",
                    call.name,
                    type_name(value)
                );
                return Err(CommandError::new(code, message));
            }
        }
    }
    Ok(Some(sets))
}

fn contains(set: &[Bson], value: &Bson, collation: Collation) -> bool {
    set.iter().any(|member| compare_collated(member.into(), value.into(), collation).is_eq())
}

/// Ascending, each once: the order the server's sets come out in.
fn as_set(mut members: Vec<Bson>, collation: Collation) -> Value {
    let order = |a: &Bson, b: &Bson| compare_collated(a.into(), b.into(), collation);
    members.sort_by(order);
    members.dedup_by(|a, b| order(a, b).is_eq());
    Some(Bson::Array(members))
}

fn set_union(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(sets) = sets(call, 17043, true)? else { return Ok(Some(Bson::Null)) };
    Ok(as_set(sets.concat(), call.collation))
}

fn set_intersection(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(sets) = sets(call, 17047, true)? else { return Ok(Some(Bson::Null)) };
    let Some((first, rest)) = sets.split_first() else { return Ok(Some(Bson::Array(vec![]))) };
    let shared = |member: &&Bson| rest.iter().all(|set| contains(set, member, call.collation));
    Ok(as_set(first.iter().filter(shared).cloned().collect(), call.collation))
}

fn set_difference(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(sets) = sets(call, 17048, true)? else { return Ok(Some(Bson::Null)) };
    let mut difference: Vec<Bson> = Vec::new();
    for member in sets[0] {
        if !contains(sets[1], member, call.collation)
            && !contains(&difference, member, call.collation)
        {
            difference.push(member.clone());
        }
    }
    Ok(Some(Bson::Array(difference)))
}

fn set_equals(call: &Call<'_>) -> Result<Value, CommandError> {
    let sets = sets(call, 17044, false)?.unwrap_or_default();
    let within =
        |a: &[Bson], b: &[Bson]| a.iter().all(|member| contains(b, member, call.collation));
    let equal = sets.windows(2).all(|pair| within(pair[0], pair[1]) && within(pair[1], pair[0]));
    Ok(Some(Bson::Boolean(equal)))
}

fn set_is_subset(call: &Call<'_>) -> Result<Value, CommandError> {
    let sets = sets(call, 17046, false)?.unwrap_or_default();
    let subset = sets[0].iter().all(|member| contains(sets[1], member, call.collation));
    Ok(Some(Bson::Boolean(subset)))
}
