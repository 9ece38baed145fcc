//! A thread between a stream's requests and its table: it makes rows of records, so that who stores does nothing else.

use std::os::fd::RawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result};
use crate::pg::signals;
use crate::sources::http::{
    self, code, queue, Event, Failure, Fetching, Receiver, RecvTimeoutError, Sender, Weight, SLICE,
};
use crate::sources::load::{self, Batch, Bound, Layout, Make, Record};

/// What a stream's run tells, in order, with rows in the place of records.
pub enum Ready {
    Rows {
        batch: Batch,
        /// What the records taught, where they did.
        layout: Option<Arc<Layout>>,
    },
    Told(Event),
}

impl Weight for Ready {
    fn bytes(&self) -> usize {
        match self {
            Ready::Rows { batch, .. } => batch.bytes(),
            Ready::Told(_) => 0,
        }
    }
}

/// Rows that wait: about a batch, so that one is made while the one before is stored.
const WAITING_BYTES: usize = 4 << 20;

/// A stream's requests under way, and the rows that come of them. Dropping it ends both, in a moment.
pub struct Preparing {
    pub ready: Receiver<Ready>,
    /// Readable while something is in the queue, and once the thread has ended.
    pub fd: RawFd,
    /// Most rows are there as they are: only what tells so is made of the records.
    unchanged: Arc<AtomicBool>,
    stop: http::Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Preparing {
    /// Whether most of what comes is expected to be there already.
    pub fn expect_unchanged(&self, unchanged: bool) {
        self.unchanged.store(unchanged, Relaxed);
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was told as a failure already.
            let _ = thread.join();
        }
    }
}

/// Starts to make rows of what is fetched; `bound` is what the parents of the order fill in, each.
pub fn start(
    fetching: Fetching,
    layout: Arc<Layout>,
    salt: u64,
    bound: Vec<Bound>,
    unchanged: bool,
) -> Result<Preparing> {
    let no_thread = |e| Error::new("53000", format!("could not start a thread: {e}"));
    let (sender, ready) = queue(WAITING_BYTES).map_err(no_thread)?;
    let stop = fetching.stopper();
    let unchanged = Arc::new(AtomicBool::new(unchanged));
    let (layout, theirs) = (Layout::clone(&layout), Arc::clone(&unchanged));
    let maker = Maker { sender, stop: stop.clone(), layout, salt, bound, parent: None, unchanged: theirs };
    let builder = Builder::new().name("startup_wh rows".into());
    let thread = signals::blocked(|| builder.spawn(move || run(fetching, maker))).map_err(no_thread)?;
    Ok(Preparing { fd: ready.fd(), ready, unchanged, stop, thread: Some(thread) })
}

fn run(fetching: Fetching, mut maker: Maker) {
    let ended = catch_unwind(AssertUnwindSafe(|| while maker.next(&fetching) {}));
    if ended.is_err() {
        maker.tell(Ready::Told(Event::Failed(Failure::new(code::FDW_ERROR, "the thread that makes rows panicked"))));
    }
}

struct Maker {
    sender: Sender<Ready>,
    stop: http::Stopper,
    layout: Layout,
    salt: u64,
    bound: Vec<Bound>,
    parent: Option<usize>,
    unchanged: Arc<AtomicBool>,
}

impl Maker {
    /// Goes on with the next event; `false` at the end.
    fn next(&mut self, fetching: &Fetching) -> bool {
        let event = match fetching.events.recv_timeout(SLICE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return !self.stop.is_stopped(),
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        match event {
            Event::Records(records) => {
                let bound = self.parent.and_then(|parent| self.bound.get(parent));
                let records = records.into_iter().map(|raw| Record { raw, bound: bound.cloned() }).collect();
                let make = if self.unchanged.load(Relaxed) { Make::Identity } else { Make::All };
                let before = self.layout.revision;
                let mut batch = load::prepare(&mut self.layout, records, self.salt, make);
                batch.withheld = self.layout.withhold.take_found();
                let layout = (self.layout.revision != before).then(|| Arc::new(self.layout.clone()));
                self.tell(Ready::Rows { batch, layout })
            }
            told => {
                if let Event::Parent { index } = told {
                    self.parent = Some(index);
                }
                self.tell(Ready::Told(told))
            }
        }
    }

    fn tell(&self, ready: Ready) -> bool {
        self.sender.send(ready, SLICE, || !self.stop.is_stopped())
    }
}
