//! Connection strings: `mongodb://` and `mongodb+srv://`, their hosts and their options.

mod address;

pub use address::{DEFAULT_PORT, ServerAddress};
