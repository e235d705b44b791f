//! What the examples measure with: CPU time and memory of this process, from `/proc`.

#![allow(dead_code)] // Each example uses its part.

use std::fs;

/// CPU time this process has used, in seconds, as the scheduler counts it (nanoseconds).
pub fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").expect("Linux with /proc");
    let nanos = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    nanos.expect("schedstat starts with a number") as f64 / 1e9
}

/// Memory this process holds, in MiB.
pub fn resident_mebibytes() -> f64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux with /proc");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
    let kibibytes = line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
    kibibytes.expect("VmRSS is a number of kB") / 1_024.0
}

/// The number after `name` on the command line, or `default`.
pub fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => default,
        (Some(_), Some(value)) => value.parse().unwrap_or_else(|_| usage(name)),
        (Some(_), None) => usage(name),
    }
}

fn usage(name: &str) -> ! {
    eprintln!("{name} takes a whole number");
    std::process::exit(2);
}
