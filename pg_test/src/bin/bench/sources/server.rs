//! A server of made-up customers that is faster than whoever asks: a record is a template whose digits are filled in.
//!
//! `/v1/customers?limit&starting_after&updated[gte]` lists as Stripe does, newest change first. `/v1/whole` is everything
//! in one page.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use pg_test::Result;

/// Seconds since 1970 of the first customer.
const EPOCH: u64 = 1_600_000_000;
/// `#` the number, `@` created, `%` updated, `&` an amount. 650 bytes.
const RECORD: &str = concat!(
    r#"{"id":"cus_Q########","object":"customer","address":null,"balance":-1&&&&,"created":@@@@@@@@@@,"currency":"usd","#,
    r#""default_source":null,"delinquent":false,"description":"Customer ######## on plan &&&&","discount":null,"#,
    r#""email":"customer########@example.com","invoice_prefix":"P########","invoice_settings":{"custom_fields":null,"#,
    r#""default_payment_method":null,"footer":null,"rendering_options":null},"livemode":false,"metadata":{"account":"a########","#,
    r#""plan":"team","region":"eu-central-1"},"name":"Customer ########","next_invoice_sequence":1,"phone":"+15550########","#,
    r#""preferred_locales":[],"shipping":null,"tax_exempt":"none","test_clock":null,"updated":%%%%%%%%%%}"#,
);

/// What it has, and what it did.
#[derive(Default)]
pub struct Shared {
    pub customers: AtomicU64,
    /// Every hundredth of them changed, after all were made, if this says so.
    pub changed: AtomicU64,
    pub requests: AtomicU64,
    /// Time between a request's last byte and its answer's.
    busy_ns: AtomicU64,
    stop: AtomicBool,
}

pub struct Server {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
}

impl Server {
    pub fn start() -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.stop.load(Relaxed) {
                    return;
                }
                let theirs = Arc::clone(&theirs);
                // An error is the client's going away.
                thread::spawn(move || stream.and_then(|s| serve(s, &theirs)));
            }
        });
        Ok(Server { address, shared })
    }

    pub fn has(&self, customers: u64, changed: u64) {
        self.shared.customers.store(customers, Relaxed);
        self.shared.changed.store(changed, Relaxed);
    }

    /// What it did since this was asked last: requests, and its own time.
    pub fn take(&self) -> (u64, Duration) {
        (self.shared.requests.swap(0, Relaxed), Duration::from_nanos(self.shared.busy_ns.swap(0, Relaxed)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// Writes a number over the places of a mark, from the right.
fn fill(record: &mut [u8], places: &[usize], mut value: u64, width: usize) {
    for run in places.chunks(width) {
        let whole = value;
        for at in run.iter().rev() {
            record[*at] = b'0' + (value % 10) as u8;
            value /= 10;
        }
        value = whole;
    }
}

fn places() -> &'static [Vec<usize>; 4] {
    static PLACES: OnceLock<[Vec<usize>; 4]> = OnceLock::new();
    PLACES.get_or_init(|| {
        [b'#', b'@', b'%', b'&'].map(|mark| {
            let at = |(i, b): (usize, u8)| (b == mark && !is_address(i)).then_some(i);
            RECORD.bytes().enumerate().filter_map(at).collect()
        })
    })
}

/// The sign in the mail address is one.
fn is_address(at: usize) -> bool {
    RECORD[at..].starts_with("@example")
}

/// A customer as JSON; one that changed has another balance and a later `updated`.
pub fn record(into: &mut Vec<u8>, n: u64, customers: u64, changed: Option<u64>) {
    let begin = into.len();
    into.extend_from_slice(RECORD.as_bytes());
    let record = &mut into[begin..];
    let [number, created, updated, amount] = places();
    fill(record, number, n, 8);
    fill(record, created, EPOCH + n, 10);
    fill(record, updated, EPOCH + changed.map_or(n, |k| customers + k), 10);
    fill(record, amount, (n * 7 + u64::from(changed.is_some())) % 10_000, 4);
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    let mut body = Vec::new();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let begun = Instant::now();
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/v1/whole" {
            whole(&mut out, shared)?;
        } else {
            page(&mut body, query, shared);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            out.write_all(head.as_bytes())?;
            out.write_all(&body)?;
        }
        shared.requests.fetch_add(1, Relaxed);
        shared.busy_ns.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
    }
    Ok(())
}

/// A page by its place in the listing: those that changed come first.
fn page(body: &mut Vec<u8>, query: &str, shared: &Shared) {
    let (customers, changed) = (shared.customers.load(Relaxed), shared.changed.load(Relaxed));
    let every = 100;
    let (mut limit, mut from, mut since) = (100, 0, 0);
    for (name, value) in query.split('&').filter_map(|p| p.split_once('=')) {
        match name {
            "limit" => limit = value.parse().unwrap_or(limit),
            "starting_after" => {
                let n: u64 = value.trim_start_matches("cus_Q").parse().unwrap_or(0);
                from = 1 + match n.is_multiple_of(every) && n / every < changed {
                    true => n / every,
                    false => changed + (customers - 1 - n),
                };
            }
            _ if name.starts_with("updated") => since = value.parse::<u64>().map_or(0, |s| s.saturating_sub(EPOCH)),
            _ => {}
        }
    }
    // Places from 0 to changed - 1 have updated = customers + place, the others descend from customers - 1.
    let end = match since {
        0 => customers + changed,
        s if s < customers => changed + customers - s,
        s => changed.saturating_sub(s - customers),
    };
    body.clear();
    body.extend_from_slice(br#"{"object":"list","url":"/v1/customers","data":["#);
    let until = end.min(from + limit);
    for at in from..until {
        if at > from {
            body.push(b',');
        }
        match at < changed {
            true => record(body, at * every, customers, Some(at)),
            false => record(body, customers - 1 - (at - changed), customers, None),
        }
    }
    body.extend_from_slice(format!(r#"],"has_more":{}}}"#, until < end).as_bytes());
}

fn whole(out: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let customers = shared.customers.load(Relaxed);
    let (head, tail) = (r#"{"object":"list","data":["#, r#"],"has_more":false}"#);
    let length = head.len() + tail.len() + customers as usize * (RECORD.len() + 1) - 1;
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{head}")?;
    let mut part = Vec::with_capacity(1 << 20);
    for n in 0..customers {
        if n > 0 {
            part.push(b',');
        }
        record(&mut part, n, customers, None);
        if part.len() > 900_000 {
            out.write_all(&part)?;
            part.clear();
        }
    }
    out.write_all(&part)?;
    out.write_all(tail.as_bytes())
}

/// Bytes of a record.
pub const fn record_bytes() -> u64 {
    RECORD.len() as u64
}
