//! `local.startup_log`: what a process writes of itself when it starts.

use bson::{DateTime, Document, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use crate::mongod::Mongod;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Mongod {
    /// The document of this start.
    pub(crate) fn startup_document(&self, now: Instant) -> RawDocumentBuf {
        let millis = self.wall_millis(now);
        let host = &*self.options.host;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let command_line = RawDocumentBuf::try_from(&self.parsed_options());
        let information = RawDocumentBuf::try_from(&self.build_information());
        rawdoc! {
            "_id": format!("{name}-{millis}"),
            "hostname": name,
            "startTime": DateTime::from_millis(millis),
            "startTimeLocal": ctime(millis),
            "cmdLine": command_line.unwrap_or_default(),
            "pid": 1_i64,
            "buildinfo": information.unwrap_or_default(),
        }
    }

    /// What `buildInfo` says.
    pub(crate) fn build_information(&self) -> Document {
        super::diagnostic::build_information(self.options.version)
    }
}

/// As C's `ctime` shows a time, with milliseconds and without the year.
fn ctime(millis: i64) -> String {
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let (month, day) = month_and_day(days);
    let (seconds, millis) = (of_day / 1_000, of_day % 1_000);
    format!(
        "{weekday} {} {day:2} {:02}:{:02}:{:02}.{millis:03}",
        MONTHS[month],
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The month (from 0) and the day (from 1) of a day since the Unix epoch: years are counted from March,
/// so that the leap day is the last.
fn month_and_day(days: i64) -> (usize, i64) {
    let of_era = (days + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    (((from_march + 2) % 12) as usize, day)
}

#[cfg(test)]
mod tests {
    use super::ctime;

    #[test]
    fn a_time_is_shown_as_c_shows_it() {
        assert_eq!(ctime(0), "Thu Jan  1 00:00:00.000");
        assert_eq!(ctime(951_782_400_000), "Tue Feb 29 00:00:00.000");
        assert_eq!(ctime(1_795_354_627_810), "Sun Nov 22 13:37:07.810");
    }
}
