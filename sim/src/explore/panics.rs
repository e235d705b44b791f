//! Panics of a run are findings: heard, and not printed.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

/// What a panic said.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// The file, without the line: that moves too easily.
    pub(super) place: String,
    pub(super) message: String,
}

thread_local! {
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
}

/// Once for the process: panics are kept where a run listens, and printed as ever elsewhere.
pub(super) fn be_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !LISTENS.get() {
                return before(info);
            }
            let payload = info.payload();
            let message = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            let place = info.location().map(|location| {
                let file = location.file().rsplit("src/").next().unwrap_or_default();
                format!("{file}:{}", location.line())
            });
            let heard = Heard { place: place.unwrap_or_default(), message };
            // The first one is the cause; what follows it is its wake.
            HEARD.with_borrow_mut(|slot| slot.get_or_insert(heard).place.len());
        }));
    });
}

/// Runs `run`, listening.
pub(super) fn heard<T>(run: impl FnOnce() -> T) -> (T, Option<Heard>) {
    HEARD.take();
    LISTENS.set(true);
    let value = run();
    LISTENS.set(false);
    (value, HEARD.take())
}
