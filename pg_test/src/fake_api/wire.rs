//! HTTP as it goes over the wire: requests in, replies out, and what faults do to them on the way.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::answers::decide;
use super::{decode, pairs, Asked, Fault, Reply, State};

trait Stream: Read + Write {
    fn close(&mut self);
}

impl Stream for TcpStream {
    fn close(&mut self) {
        drop(self.shutdown(std::net::Shutdown::Both));
    }
}

impl Stream for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn close(&mut self) {
        self.sock.close();
    }
}

pub(super) fn serve(
    stream: TcpStream,
    config: Option<Arc<rustls::ServerConfig>>,
    base: &str,
    state: &Mutex<State>,
    stopping: &AtomicBool,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    match config {
        None => converse(stream, base, state, stopping),
        Some(config) => {
            let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            converse(rustls::StreamOwned::new(connection, stream), base, state, stopping)
        }
    }
}

fn converse(mut stream: impl Stream, base: &str, state: &Mutex<State>, stopping: &AtomicBool) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let Some(asked) = next_request(&mut stream, &mut input, stopping)? else { return Ok(()) };
        let (reply, fault) = decide(state, &asked, base);
        let mut reply = reply;
        match fault {
            Some(Fault::Hang) => return wait_for_the_end(&mut stream, stopping),
            Some(Fault::Gzip) => reply = zipped(reply),
            Some(Fault::Bomb(mib)) => reply = bomb(mib),
            Some(Fault::HugeHeader(n)) => reply = reply.with("X-Padding", &"x".repeat(n)),
            Some(Fault::Reply(instead)) => reply = instead,
            Some(Fault::Cut(n)) => {
                write_reply(&mut stream, &reply, n)?;
                stream.close();
                return Ok(());
            }
            Some(Fault::Stall(n)) => {
                write_reply(&mut stream, &reply, n)?;
                return wait_for_the_end(&mut stream, stopping);
            }
            Some(Fault::Drip(each)) => {
                write_reply(&mut stream, &reply, 0)?;
                for byte in &reply.body {
                    if stopping.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    thread::sleep(each);
                    stream.write_all(&[*byte])?;
                    stream.flush()?;
                }
                continue;
            }
            None => {}
        }
        write_reply(&mut stream, &reply, usize::MAX)?;
    }
}

fn write_reply(stream: &mut impl Stream, reply: &Reply, body: usize) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Whatever\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut all = head.into_bytes();
    all.extend_from_slice(&reply.body[..body.min(reply.body.len())]);
    stream.write_all(&all)?;
    stream.flush()
}

fn waits(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn wait_for_the_end(stream: &mut impl Stream, stopping: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while !stopping.load(Ordering::SeqCst) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if waits(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn more(stream: &mut impl Stream, input: &mut Vec<u8>, stopping: &AtomicBool) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                input.extend_from_slice(&buffer[..n]);
                return Ok(true);
            }
            Err(e) if waits(&e) && !stopping.load(Ordering::SeqCst) => {}
            Err(e) => return Err(e),
        }
    }
}

fn next_request(stream: &mut impl Stream, input: &mut Vec<u8>, stopping: &AtomicBool) -> io::Result<Option<Asked>> {
    let head_ends = loop {
        if let Some(at) = input.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if !more(stream, input, stopping)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&input[..head_ends]).into_owned();
    input.drain(..head_ends + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    while input.len() < length {
        if !more(stream, input, stopping)? {
            return Ok(None);
        }
    }
    let body = String::from_utf8_lossy(&input[..length]).into_owned();
    input.drain(..length);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Asked {
        method: method.into(),
        path: decode(path),
        query: pairs(query),
        headers,
        body,
        at: Instant::now(),
    }))
}

fn zip(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    write(&mut encoder).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn zipped(reply: Reply) -> Reply {
    let body = zip(|w| w.write_all(&reply.body));
    Reply { body, ..reply }.with("Content-Encoding", "gzip")
}

fn bomb(mib: usize) -> Reply {
    let body = zip(|w| {
        w.write_all(b"{\"data\":[")?;
        let blanks = vec![b' '; 1 << 20];
        (0..mib).try_for_each(|_| w.write_all(&blanks))?;
        w.write_all(b"],\"has_more\":false}")
    });
    Reply { status: 200, headers: vec![("Content-Type".into(), "application/json".into())], body }
        .with("Content-Encoding", "gzip")
}
