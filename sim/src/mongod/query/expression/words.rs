//! How each operator words what is wrong with its named arguments: measured one by one.

use crate::mongod::error::CommandError;
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::ValueRef;

/// The words of operators that say the same. In the texts `{op}` stands for the operator, `{arg}` for
/// the argument, `{type}` and `{value}` for what was given instead of an object.
pub(super) struct Words {
    operators: &'static [&'static str],
    /// No object.
    object: (i32, &'static str),
    /// An argument nobody knows.
    unknown: (i32, &'static str),
    /// An argument that must be there and is not: the text, and the codes by argument.
    missing: &'static str,
    codes: &'static [(&'static str, i32)],
}

const PLAIN: &str = "{op} only supports an object as its argument";
const FOUND: &str = "{op} requires an object as an argument, found: {type}";
const NAMED: &str = "{op} expects an object of named arguments but found: {type}";
const UNKNOWN: &str = "{op} found an unknown argument: {arg}";
const PARAMETER: &str = "Missing '{arg}' parameter to {op}";
const SPECIFIED: &str = "{op} requires '{arg}' to be specified";

static WORDS: &[Words] = &[
    Words {
        operators: &["$convert"],
        object: (9, NAMED),
        unknown: (9, UNKNOWN),
        missing: PARAMETER,
        codes: &[("", 9)],
    },
    Words {
        operators: &["$dateAdd", "$dateSubtract"],
        object: (5_166_400, "{op} expects an object as its argument"),
        unknown: (
            5_166_401,
            "Unrecognized argument to {op}: {arg}. Expected arguments are startDate, unit, amount, and \
             optionally timezone.",
        ),
        missing: "{op} requires startDate, unit, and amount to be present",
        codes: &[("", 5_166_402)],
    },
    Words {
        operators: &["$dateDiff"],
        object: (5_166_301, PLAIN),
        unknown: (5_166_302, "Unrecognized argument to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("startDate", 5_166_303), ("endDate", 5_166_304), ("unit", 5_166_305)],
    },
    Words {
        operators: &["$dateFromString"],
        object: (40_540, "{op} only supports an object as an argument, found: {type}"),
        unknown: (40_541, "Unrecognized argument to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("", 40_542)],
    },
    Words {
        operators: &["$dateToString"],
        object: (18_629, PLAIN),
        unknown: (18_534, "Unrecognized argument to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("", 18_628)],
    },
    Words {
        operators: &["$dateTrunc"],
        object: (5_439_007, PLAIN),
        unknown: (
            5_439_008,
            "Unrecognized argument to {op}: {arg}. Expected arguments are date, unit, and optionally, \
             binSize, timezone, startOfWeek",
        ),
        missing: PARAMETER,
        codes: &[("date", 5_439_009), ("unit", 5_439_010)],
    },
    Words {
        operators: &["$getField"],
        object: (3_041_702, PLAIN),
        unknown: (3_041_701, UNKNOWN),
        missing: SPECIFIED,
        codes: &[("field", 3_041_702), ("input", 3_041_703)],
    },
    Words {
        operators: &["$ltrim", "$rtrim", "$trim"],
        object: (50_696, "{op} only supports an object as an argument, found {type}"),
        unknown: (50_694, UNKNOWN),
        missing: "{op} requires an '{arg}' field",
        codes: &[("", 50_695)],
    },
    Words {
        operators: &["$regexFind", "$regexFindAll", "$regexMatch"],
        object: (51_103, NAMED),
        unknown: (31_024, UNKNOWN),
        missing: "{op} requires '{arg}' parameter",
        codes: &[("input", 31_022), ("regex", 31_023)],
    },
    Words {
        operators: &["$replaceAll", "$replaceOne"],
        object: (51_751, FOUND),
        unknown: (51_750, UNKNOWN),
        missing: SPECIFIED,
        codes: &[("input", 51_749), ("find", 51_748), ("replacement", 51_747)],
    },
    Words {
        operators: &["$setField", "$unsetField"],
        object: (4_161_100, PLAIN),
        unknown: (4_161_101, UNKNOWN),
        missing: SPECIFIED,
        codes: &[("field", 4_161_102), ("input", 4_161_109), ("value", 4_161_103)],
    },
    Words {
        operators: &["$zip"],
        object: (34_460, "{op} only supports an object as an argument, found {type}"),
        unknown: (34_464, UNKNOWN),
        missing: "{op} requires at least one input array",
        codes: &[("", 34_465)],
    },
    Words {
        operators: &["$dateFromParts"],
        object: (40_519, PLAIN),
        unknown: (40_518, "Unrecognized argument to {op}: {arg}"),
        missing: "{op} requires either 'year' or 'isoWeekYear' to be present",
        codes: &[("", 40_516)],
    },
    Words {
        operators: &["$dateToParts"],
        object: (40_524, PLAIN),
        unknown: (40_520, "Unrecognized argument to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("", 40_522)],
    },
    Words {
        operators: &["$firstN", "$lastN"],
        object: (5_787_801, "specification must be an object; found {op}: {value}"),
        unknown: (5_787_901, "Unknown argument for 'n' operator: {arg}"),
        missing: "Missing value for '{arg}'",
        codes: &[("n", 5_787_906), ("input", 5_787_907)],
    },
    Words {
        operators: &["$maxN", "$minN"],
        object: (5_787_900, "specification must be an object; found {op}: {value}"),
        unknown: (5_787_901, "Unknown argument for 'n' operator: {arg}"),
        missing: "Missing value for '{arg}'",
        codes: &[("n", 5_787_906), ("input", 5_787_907)],
    },
    Words {
        operators: &["$filter"],
        object: (28_646, PLAIN),
        unknown: (28_647, "Unrecognized parameter to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("input", 28_648), ("cond", 28_650)],
    },
    Words {
        operators: &["$map"],
        object: (16_878, PLAIN),
        unknown: (16_879, "Unrecognized parameter to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("input", 16_880), ("in", 16_882)],
    },
    Words {
        operators: &["$reduce"],
        object: (40_075, FOUND),
        unknown: (40_076, UNKNOWN),
        missing: SPECIFIED,
        codes: &[("input", 40_077), ("initialValue", 40_078), ("in", 40_079)],
    },
    Words {
        operators: &["$sortArray"],
        object: (2_942_500, FOUND),
        unknown: (2_942_501, UNKNOWN),
        missing: SPECIFIED,
        codes: &[("input", 2_942_502), ("sortBy", 2_942_503)],
    },
    Words {
        operators: &["$let"],
        object: (16_874, PLAIN),
        unknown: (16_875, "Unrecognized parameter to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("vars", 16_876), ("in", 16_877)],
    },
    Words {
        operators: &["$switch"],
        object: (40_060, FOUND),
        unknown: (40_067, UNKNOWN),
        missing: PARAMETER,
        codes: &[("", 40_068)],
    },
    Words {
        operators: &["$cond"],
        object: (16_020, PLAIN),
        unknown: (17_083, "Unrecognized parameter to {op}: {arg}"),
        missing: PARAMETER,
        codes: &[("if", 17_080), ("then", 17_081), ("else", 17_082)],
    },
];

fn words(operator: &str) -> &'static Words {
    let known = WORDS.iter().find(|words| words.operators.contains(&operator));
    known.expect("every operator with named arguments has its words")
}

/// The argument is no object.
pub(super) fn no_object(operator: &str, given: ValueRef<'_>) -> CommandError {
    let (code, text) = words(operator).object;
    let text = text
        .replace("{op}", operator)
        .replace("{type}", given.type_name())
        .replace("{value}", &value_text(given));
    CommandError::new(code, text)
}

/// There is no such argument.
pub(super) fn unknown(operator: &str, argument: &str) -> CommandError {
    let (code, text) = words(operator).unknown;
    CommandError::new(code, text.replace("{op}", operator).replace("{arg}", argument))
}

/// An argument is missing.
pub(super) fn missing(operator: &str, argument: &str) -> CommandError {
    let words = words(operator);
    let codes = words.codes.iter();
    let code = codes.into_iter().find(|(name, _)| name.is_empty() || *name == argument);
    let code = code.map_or(9, |(_, code)| *code);
    CommandError::new(code, words.missing.replace("{op}", operator).replace("{arg}", argument))
}
