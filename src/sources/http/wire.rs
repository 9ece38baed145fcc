//! The socket under ureq: names are looked up and addresses judged here, the very address that was judged is connected
//! to, and no read or write blocks longer than a slice.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use super::control::{Control, Stop, SLICE};
use super::guard::{refusal, Cidr};

/// Looks nothing up: ureq asks before it knows whether it needs a new connection.
#[derive(Debug)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut none = self.empty();
        none.push(SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok(none)
    }
}

#[derive(Debug)]
pub struct Guarded {
    pub control: Arc<Control>,
    pub allowed: Vec<Cidr>,
    pub connect: Duration,
}

impl Guarded {
    fn open(&self, uri: &Uri) -> io::Result<TcpStream> {
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let found = self.control.aside(move || Ok((bare.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>()));
        let addresses = match found {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Ok(_) => return Err(self.control.stop(Stop::Unresolved(format!("\"{host}\" has no address")))),
            Err(e) => {
                self.control.check()?;
                return Err(self.control.stop(Stop::Unresolved(format!("\"{host}\": {e}"))));
            }
        };
        // One bad address among good ones is as good as a bad name: which one is taken must not be left to chance.
        for address in &addresses {
            if let Some(why) = refusal(address.ip(), &self.allowed) {
                let ip = address.ip();
                let what = if host == ip.to_string() || host == format!("[{ip}]") {
                    format!("{ip} is {why}")
                } else {
                    format!("\"{host}\" is {ip}, {why}")
                };
                return Err(self.control.stop(Stop::Refused(what)));
            }
        }
        let mut last = None;
        let each = self.connect / u32::try_from(addresses.len()).unwrap_or(1);
        for address in addresses {
            self.control.check()?;
            match self.control.aside(move || TcpStream::connect_timeout(&address, each.max(SLICE))) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(SLICE))?;
                    stream.set_write_timeout(Some(SLICE))?;
                    return Ok(stream);
                }
                Err(e) => {
                    self.control.check()?;
                    last = Some(format!("{address}: {e}"));
                }
            }
        }
        Err(self.control.stop(Stop::Unreachable(last.unwrap_or_default())))
    }
}

impl Connector<()> for Guarded {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        let config = details.config;
        self.control.phase("connecting", self.connect);
        let stream = self.open(details.uri)?;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Wire { stream, buffers, control: Arc::clone(&self.control) }))
    }
}

/// The end of the chain: connecting, with the handshake, is over, and the answer's time begins.
#[derive(Debug)]
pub struct Settled {
    pub control: Arc<Control>,
    pub answer: Duration,
}

impl<In: Transport> Connector<In> for Settled {
    type Out = In;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<In>, ureq::Error> {
        self.control.phase("the answer", self.answer);
        Ok(chained)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffers: LazyBuffers,
    control: Arc<Control>,
}

fn again(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            self.control.check()?;
            match self.stream.write(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if again(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let buffer = self.buffers.input_append_buf();
        let n = loop {
            self.control.check()?;
            match self.stream.read(buffer) {
                Ok(n) => break n,
                Err(e) if again(&e) => {}
                Err(e) => return Err(e.into()),
            }
        };
        self.buffers.input_appended(n);
        Ok(n > 0)
    }

    /// A kept connection is good while nothing is to be read from it: neither an end nor bytes nobody asked for.
    fn is_open(&mut self) -> bool {
        if self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let silent = matches!(self.stream.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        silent && self.stream.set_nonblocking(false).is_ok()
    }
}
