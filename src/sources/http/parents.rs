//! The listings of a stream's parents, several at a time, told as if they were read one after another.
//!
//! The threads take the parents in turn, and each has a queue of its own; this one empties them in the order of the
//! parents. So whoever stores sees the same with one thread or many, and a run that ends anywhere goes on after the last
//! parent that is complete. What was read ahead of it is read again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Map, Value};

use super::client::stop_trouble;
use super::control::{Control, Stop, SLICE};
use super::failure::{code, Failure};
use super::queue::{queue, Receiver, RecvTimeoutError};
use super::run::Run;
use super::{guarded, Event, Outlet, State};

/// Cancels its threads, whatever ends the telling.
struct Stopping(Arc<Control>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Reads the listings of all parents.
pub(super) fn all(
    run: &mut Run,
    out: &Outlet,
    parents: &[Map<String, Value>],
    state: &State,
) -> Result<State, Failure> {
    let marks = Marks::default();
    let at_a_time = run.stream.limits.concurrency.clamp(1, parents.len().max(1));
    if at_a_time == 1 {
        for index in 0..parents.len() {
            let (end, _) = run.parent(out, index, state.mark.as_deref())?;
            marks.see(&end);
            settled(run, out, state)?;
        }
    } else {
        side_by_side(run, out, parents.len(), state, at_a_time, &marks)?;
    }
    Ok(State { mark: marks.greatest().or(state.mark.clone()), ..State::default() })
}

/// The mark is one for all parents, so it waits for the last.
fn settled(run: &Run, out: &Outlet, state: &State) -> Result<(), Failure> {
    run.tell(out, Event::Checkpoint(State { mark: state.mark.clone(), ..State::default() }))
}

/// The greatest mark that listings came to.
#[derive(Default)]
struct Marks(Mutex<Option<i128>>);

impl Marks {
    fn see(&self, end: &State) {
        let mark = end.mark.as_ref().and_then(|mark| mark.parse::<i128>().ok());
        let mut greatest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *greatest = (*greatest).max(mark);
    }

    fn greatest(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|mark| mark.to_string())
    }
}

fn side_by_side(
    run: &mut Run,
    out: &Outlet,
    parents: usize,
    state: &State,
    at_a_time: usize,
    marks: &Marks,
) -> Result<(), Failure> {
    let no_thread = |e: std::io::Error| {
        Failure::new(code::INSUFFICIENT_RESOURCES, format!("could not start a thread: {e}"))
            .hint("A smaller concurrency in the stream's limits needs fewer.")
    };
    let mut queues: Vec<Part> = Vec::with_capacity(at_a_time);
    let told = thread::scope(|scope| {
        let stopping = Stopping(Arc::new(Control::part_of(&run.control)));
        for first in 0..at_a_time {
            let (sender, events) = queue(super::WAITING_BYTES).map_err(no_thread)?;
            let control = Arc::new(Control::part_of(&stopping.0));
            let out = Outlet { sender, control: Arc::clone(&control) };
            let order = run.order;
            let work = move || {
                let done = guarded(|| {
                    let mut part = Run::new(order, &control)?;
                    (first..parents).step_by(at_a_time).try_for_each(|index| {
                        let read = part.parent(&out, index, state.mark.as_deref());
                        part.progress(&out);
                        read.map(|(end, _)| marks.see(&end)).map_err(|failure| part.scrubbed(failure))
                    })
                });
                if let Err(failure) = done {
                    out.tell(Event::Failed(failure));
                }
            };
            // Signals are blocked in this thread, and so in those that it starts.
            let named = thread::Builder::new().name("startup_wh fetch".into()).stack_size(1 << 20);
            named.spawn_scoped(scope, work).map_err(no_thread)?;
            queues.push(Part { events, spent: [0; 3] });
        }
        for index in 0..parents {
            one(run, out, index, &mut queues)?;
            settled(run, out, state)?;
        }
        Ok(())
    });
    queues.iter().for_each(|part| run.spent(part.spent));
    told
}

/// What a thread has told, and what it has spent so far: requests, bytes, milliseconds of waiting.
struct Part {
    events: Receiver<Event>,
    spent: [u64; 3],
}

/// Tells what belongs to one parent, to its end.
fn one(run: &Run, out: &Outlet, index: usize, queues: &mut [Part]) -> Result<(), Failure> {
    let mine = index % queues.len();
    loop {
        match queues[mine].events.recv_timeout(SLICE) {
            Ok(Event::Progress { requests, bytes, waiting_ms }) => {
                queues[mine].spent = [requests, bytes, waiting_ms];
                let [requests, bytes, waiting_ms] = [0, 1, 2].map(|n| queues.iter().map(|part| part.spent[n]).sum());
                run.tell(out, Event::Progress { requests, bytes, waiting_ms })?;
            }
            Ok(Event::Failed(failure)) => return Err(failure),
            Ok(event) => {
                let done = matches!(event, Event::ParentDone { .. });
                run.tell(out, event)?;
                if done {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) if run.control.is_cancelled() => {
                return Err(stop_trouble(&Stop::Cancelled, "", &run.stream.limits).failure)
            }
            // The thread sees the end of the run's time itself.
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(code::FDW_ERROR, "a thread that fetched ended without a word"))
            }
        }
    }
}
