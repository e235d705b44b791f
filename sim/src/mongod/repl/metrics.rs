//! What a member counts of its elections.

use bson::{Document, doc};

use super::ElectionReason;

/// What `serverStatus.electionMetrics` counts, since the process began.
#[derive(Debug, Default)]
pub(crate) struct ElectionMetrics {
    called: [i64; 5],
    successful: [i64; 5],
    /// `numStepDownsCausedByHigherTerm`.
    pub step_downs_by_higher_term: i64,
    /// `numCatchUps`.
    pub catch_ups: i64,
    /// `numCatchUpsSucceeded`.
    pub catch_ups_succeeded: i64,
    /// `numCatchUpsAlreadyCaughtUp`.
    pub catch_ups_already: i64,
    /// `numCatchUpsSkipped`.
    pub catch_ups_skipped: i64,
    /// `numCatchUpsTimedOut`.
    pub catch_ups_timed_out: i64,
    /// `numCatchUpsFailedWithError`.
    pub catch_ups_failed: i64,
    /// `numCatchUpsFailedWithNewTerm`.
    pub catch_ups_new_term: i64,
    /// `numCatchUpsFailedWithReplSetAbortPrimaryCatchUpCmd`.
    pub catch_ups_aborted: i64,
    /// Entries fetched by catch-ups that were needed.
    pub catch_up_entries: i64,
}

const REASONS: [&str; 5] =
    ["stepUpCmd", "priorityTakeover", "catchUpTakeover", "electionTimeout", "freezeTimeout"];

impl ElectionMetrics {
    /// An election was called.
    pub(crate) fn note_called(&mut self, reason: ElectionReason) {
        self.called[place(reason)] += 1;
    }

    /// An election was won.
    pub(crate) fn note_won(&mut self, reason: ElectionReason) {
        self.successful[place(reason)] += 1;
    }

    /// As `serverStatus.electionMetrics` shows it.
    pub(crate) fn document(&self) -> Document {
        let mut metrics = Document::new();
        for (index, name) in REASONS.into_iter().enumerate() {
            metrics.insert(
                name,
                doc! { "called": self.called[index], "successful": self.successful[index] },
            );
        }
        let average = if self.catch_ups > 0 {
            self.catch_up_entries as f64 / self.catch_ups as f64
        } else {
            0.0
        };
        for (name, count) in [
            ("numStepDownsCausedByHigherTerm", self.step_downs_by_higher_term),
            ("numCatchUps", self.catch_ups),
            ("numCatchUpsSucceeded", self.catch_ups_succeeded),
            ("numCatchUpsAlreadyCaughtUp", self.catch_ups_already),
            ("numCatchUpsSkipped", self.catch_ups_skipped),
            ("numCatchUpsTimedOut", self.catch_ups_timed_out),
            ("numCatchUpsFailedWithError", self.catch_ups_failed),
            ("numCatchUpsFailedWithNewTerm", self.catch_ups_new_term),
            ("numCatchUpsFailedWithReplSetAbortPrimaryCatchUpCmd", self.catch_ups_aborted),
        ] {
            metrics.insert(name, count);
        }
        metrics.insert("averageCatchUpOps", average);
        metrics
    }
}

fn place(reason: ElectionReason) -> usize {
    match reason {
        ElectionReason::StepUpRequest | ElectionReason::StepUpRequestSkipDryRun => 0,
        ElectionReason::PriorityTakeover => 1,
        ElectionReason::CatchupTakeover => 2,
        ElectionReason::ElectionTimeout => 3,
        ElectionReason::SingleNodePromptElection => 4,
    }
}
