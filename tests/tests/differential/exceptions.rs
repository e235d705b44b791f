//! Which differences are known, and which are not.

use std::fmt::Write as _;
use std::path::Path;

use crate::compare::{Difference, compare};
use crate::normal::Normaliser;
use crate::play::Transcript;
use crate::sequence::{Exception, Sequence, name_of};

/// The page that explains every known difference.
const PAGE: &str = "docs/differences.md";

/// Passes if every difference is known, every known one is explained and still there.
pub fn judge(sequence: &Sequence, real: &Transcript, simulated: &Transcript) -> Result<(), String> {
    let normaliser = Normaliser::of(sequence);
    let mut report = String::new();
    let mut everywhere: Vec<bool> = vec![false; sequence.differs.len()];
    let (mut commands, mut differing) = (0, 0);
    for (real, simulated) in real.iter().zip(simulated) {
        assert_eq!(real.step, simulated.step, "both are transcripts of this sequence");
        commands += 1;
        let exceptions = &sequence.steps[real.step].differs;
        let mut here = vec![false; exceptions.len()];
        let found = compare(&normaliser.reply(&real.reply), &normaliser.reply(&simulated.reply));
        let mut unknown = Vec::new();
        for difference in found {
            let of_step = excused(&difference, exceptions, &mut here);
            let of_file = excused(&difference, &sequence.differs, &mut everywhere);
            if !of_step && !of_file {
                unknown.push(difference);
            }
        }
        let gone: Vec<&Exception> = unused(exceptions, &here).collect();
        if unknown.is_empty() && gone.is_empty() {
            continue;
        }
        differing += 1;
        let to = name_of(real.member);
        let _ = writeln!(report, "step {} on {to}: {}", real.step, real.command);
        for difference in unknown {
            let _ = writeln!(report, "    {difference}");
        }
        for exception in gone {
            let path = exception.path.join(".");
            let _ = writeln!(report, "    {path}: `{}` does not differ any more", exception.name);
        }
    }
    for exception in unused(&sequence.differs, &everywhere) {
        let path = exception.path.join(".");
        let _ = writeln!(report, "{path}: `{}` does not differ anywhere", exception.name);
    }
    unexplained(sequence, &mut report)?;
    if report.is_empty() {
        return Ok(());
    }
    Err(format!("{differing} of {commands} replies differ\n{report}"))
}

/// Marks the exceptions that cover a difference.
fn excused(difference: &Difference, exceptions: &[Exception], used: &mut [bool]) -> bool {
    let mut any = false;
    for (exception, used) in exceptions.iter().zip(used) {
        let covers = exception.path.len() <= difference.path.len()
            && exception
                .path
                .iter()
                .zip(&difference.path)
                .all(|(wanted, found)| wanted == "*" || wanted == found);
        *used |= covers;
        any |= covers;
    }
    any
}

fn unused<'a>(
    exceptions: &'a [Exception],
    used: &'a [bool],
) -> impl Iterator<Item = &'a Exception> {
    let kept = exceptions.iter().zip(used);
    kept.filter(|(exception, used)| !**used && !exception.sometimes).map(|(it, _)| it)
}

/// Every exception stands in the page by its name.
fn unexplained(sequence: &Sequence, report: &mut String) -> Result<(), String> {
    let of_steps = sequence.steps.iter().flat_map(|step| &step.differs);
    let mut names: Vec<&str> =
        sequence.differs.iter().chain(of_steps).map(|exception| exception.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
    let page = std::fs::read_to_string(page).map_err(|error| format!("{PAGE}: {error}"))?;
    for name in names {
        if !page.contains(&format!("`{name}`")) {
            let _ = writeln!(report, "`{name}` is not explained in {PAGE}");
        }
    }
    Ok(())
}
