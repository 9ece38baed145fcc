//! What ends a wait for the network: a cancel, the end of the run's time, the end of a phase's time. Each wait looks
//! here several times a second, so that none lasts longer than that after it should have ended.

use std::io;
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long anything may block without looking up.
pub const SLICE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    Cancelled,
    /// The run's own time is used up.
    RunTime,
    /// A phase of a request took too long: "connecting", "the answer".
    Slow(&'static str),
    /// The address is not one to connect to, and why.
    Refused(String),
    /// Another reason than the network's.
    TooLarge(String),
    Unresolved(String),
    Unreachable(String),
}

#[derive(Debug)]
pub struct Control {
    run_ends: Instant,
    state: Mutex<State>,
    changed: Condvar,
    /// What ends this one too.
    above: Option<Arc<Control>>,
}

#[derive(Debug)]
struct State {
    cancelled: bool,
    phase: Option<(Instant, &'static str)>,
    /// Why the last operation ended, where it was us who ended it.
    stop: Option<Stop>,
}

impl Control {
    pub fn new(run: Duration) -> Self {
        // A century is for ever, and fits.
        let run = run.min(Duration::from_secs(100 * 365 * 24 * 3600));
        Control {
            run_ends: Instant::now() + run,
            state: Mutex::new(State { cancelled: false, phase: None, stop: None }),
            changed: Condvar::new(),
            above: None,
        }
    }

    /// One for a part of the run, which has waits of its own and ends with the whole.
    pub fn part_of(above: &Arc<Control>) -> Self {
        Control { run_ends: above.run_ends, above: Some(Arc::clone(above)), ..Control::new(Duration::ZERO) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics with the lock held, and the state is valid at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cancel(&self) {
        self.state().cancelled = true;
        self.changed.notify_all();
    }

    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled || self.above.as_ref().is_some_and(|above| above.is_cancelled())
    }

    /// What the run still has.
    pub fn left(&self) -> Duration {
        self.run_ends.saturating_duration_since(Instant::now())
    }

    /// From now on, waits belong to this phase and end with its time.
    pub fn phase(&self, what: &'static str, lasts: Duration) {
        let mut state = self.state();
        state.phase = Some((Instant::now() + lasts.min(Duration::from_secs(365 * 24 * 3600)), what));
        state.stop = None;
    }

    /// Moves the end of the phase: that time went by without waiting for the network.
    pub fn extend(&self, by: Duration) {
        if let Some((ends, _)) = &mut self.state().phase {
            *ends += by;
        }
    }

    /// Ends the operation for a reason of ours.
    pub fn stop(&self, stop: Stop) -> io::Error {
        let text = format!("{stop:?}");
        self.state().stop = Some(stop);
        io::Error::other(text)
    }

    /// Why the last operation ended, if by us.
    pub fn stopped(&self) -> Option<Stop> {
        self.state().stop.take()
    }

    /// An error once waiting must end.
    pub fn check(&self) -> io::Result<()> {
        let now = Instant::now();
        let cancelled = self.is_cancelled();
        let state = self.state();
        let stop = if cancelled {
            Stop::Cancelled
        } else if now >= self.run_ends {
            Stop::RunTime
        } else {
            match state.phase {
                Some((ends, what)) if now >= ends => Stop::Slow(what),
                _ => return Ok(()),
            }
        };
        drop(state);
        Err(self.stop(stop))
    }

    /// Waits so long, unless cancelled or out of time before.
    pub fn sleep(&self, lasts: Duration) -> Result<(), Stop> {
        let wakes = Instant::now() + lasts.min(self.left());
        let mut state = self.state();
        loop {
            if state.cancelled || self.above.as_ref().is_some_and(|above| above.is_cancelled()) {
                return Err(Stop::Cancelled);
            }
            let now = Instant::now();
            if now >= self.run_ends {
                return Err(Stop::RunTime);
            }
            if now >= wakes {
                return Ok(());
            }
            // A cancel from above is looked for.
            let most = if self.above.is_some() { SLICE } else { Duration::MAX };
            state = self.changed.wait_timeout(state, most.min(wakes - now)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs what can't be interrupted (a look-up, a connect) in a thread of its own, and leaves it behind when waiting
    /// must end. It inherits this thread's blocked signals, holds nothing of ours, and ends by itself.
    pub fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("startup_wh net".into()).stack_size(256 << 10).spawn(move || {
            // Nobody waits any more: the result goes with this thread.
            let _ = sender.send(work());
        })?;
        loop {
            match receiver.recv_timeout(SLICE / 4) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Timeout) => self.check()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(io::Error::other("a thread ended early")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cancels once `work` waits, and says how long it took to end after that.
    fn cancelled<T>(work: impl FnOnce(&Control) -> T) -> (T, Duration) {
        let control = Arc::new(Control::new(Duration::from_secs(3600)));
        let other = Arc::clone(&control);
        let canceller = std::thread::spawn(move || {
            other.cancel();
            Instant::now()
        });
        let result = work(&control);
        let ended = Instant::now();
        (result, ended.saturating_duration_since(canceller.join().unwrap()))
    }

    /// The same, where the wait is a part's and the cancel the whole's.
    fn cancelled_above<T>(work: impl FnOnce(&Control) -> T) -> (T, Duration) {
        let whole = Arc::new(Control::new(Duration::from_secs(3600)));
        let part = Control::part_of(&whole);
        let canceller = std::thread::spawn(move || {
            whole.cancel();
            Instant::now()
        });
        let result = work(&part);
        let ended = Instant::now();
        (result, ended.saturating_duration_since(canceller.join().unwrap()))
    }

    #[test]
    fn what_cannot_be_interrupted_is_left_behind() {
        // As a look-up of a name does whose server is silent.
        let (release, stuck) = mpsc::channel::<()>();
        let (result, took) = cancelled(|control| control.aside(move || stuck.recv().map_err(io::Error::other)));
        assert!(result.is_err() && took < Duration::from_secs(1), "{took:?}");
        drop(release);
        let control = Control::new(Duration::from_secs(3600));
        control.phase("connecting", Duration::from_millis(50));
        let (_release, stuck) = mpsc::channel::<()>();
        assert!(control.aside(move || stuck.recv().map_err(io::Error::other)).is_err());
        assert_eq!(control.stopped(), Some(Stop::Slow("connecting")));
    }

    #[test]
    fn a_part_ends_with_the_whole_and_the_whole_not_with_a_part() {
        let (result, took) = cancelled_above(|part| part.sleep(Duration::from_secs(600)));
        assert_eq!(result, Err(Stop::Cancelled));
        assert!(took < Duration::from_secs(1), "{took:?}");
        let whole = Arc::new(Control::new(Duration::from_secs(3600)));
        let (one, other) = (Control::part_of(&whole), Control::part_of(&whole));
        one.cancel();
        assert!(one.check().is_err() && other.check().is_ok() && whole.check().is_ok());
        assert!(one.left() > Duration::from_secs(3000));
    }

    #[test]
    fn a_sleep_ends_with_a_cancel_and_with_the_run() {
        let (result, took) = cancelled(|control| control.sleep(Duration::from_secs(600)));
        assert_eq!(result, Err(Stop::Cancelled));
        assert!(took < Duration::from_secs(1), "{took:?}");
        let short = Control::new(Duration::from_millis(20));
        assert_eq!(short.sleep(Duration::from_secs(600)), Err(Stop::RunTime));
        assert_eq!(Control::new(Duration::from_secs(60)).sleep(Duration::from_millis(1)), Ok(()));
    }
}
