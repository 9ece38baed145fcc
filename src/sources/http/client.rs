//! One HTTP request after another, over ureq: verified TLS, no proxy from the environment, redirects followed by hand
//! with the guard at each step, header and body bounded, gzip inflated and counted.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, Method, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::{Connector, RustlsConnector};
use url::Url;

use super::control::{Control, Stop};
use super::failure::{code, Failure, Trouble};
use super::guard::Cidr;
use super::secret::{shown, Secret};
use super::wire::{Guarded, NoResolver, Settled};
use crate::sources::spec::Limits;

/// Where a fetch may go, and whom it trusts.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Ranges that are reached although they are private.
    pub allowed: Vec<Cidr>,
    /// Roots besides the system's, PEM.
    pub roots: Option<String>,
}

/// What proves who we are; sent to the host of `base_url`, and for a token to that of its endpoint.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    pub headers: Vec<(String, Secret)>,
    pub query: Vec<(String, Secret)>,
    /// The number of the token in them, from 1; 0: there is none.
    pub token: u64,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub post: bool,
    pub url: Url,
    pub headers: Vec<(String, String)>,
    /// With its content type.
    pub body: Option<(&'static str, Vec<u8>)>,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Where it came from in the end, without credentials.
    pub url: Url,
    pub body: Body,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub struct Client {
    agent: ureq::Agent,
    control: Arc<Control>,
    limits: Limits,
    /// Origins that credentials are sent to.
    base: Url,
    allow_hosts: Vec<String>,
}

impl Client {
    pub fn new(
        control: Arc<Control>,
        base: Url,
        allow_hosts: Vec<String>,
        limits: Limits,
        network: &Network,
        user_agent: &str,
    ) -> Result<Client, Failure> {
        let roots = roots(network)?;
        let config = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(user_agent)
            .accept("application/json")
            .max_response_header_size(limits.max_header_bytes)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let guarded = Guarded {
            control: Arc::clone(&control),
            allowed: network.allowed.clone(),
            connect: Duration::from_millis(limits.connect_ms),
        };
        let settled = Settled { control: Arc::clone(&control), answer: Duration::from_millis(limits.request_ms) };
        let agent =
            ureq::Agent::with_parts(config, guarded.chain(RustlsConnector::default()).chain(settled), NoResolver);
        Ok(Client { agent, control, limits, base, allow_hosts })
    }

    /// Whether a request may go there, and if not, why.
    pub fn may_go_to(&self, url: &Url) -> Result<(), String> {
        may_go_to(&self.base, &self.allow_hosts, url)
    }

    /// An error once the run is over: for waits for something else than the network.
    pub fn check_run(&self) -> Result<(), Trouble> {
        let stop = match () {
            () if self.control.is_cancelled() => Stop::Cancelled,
            () if self.control.left().is_zero() => Stop::RunTime,
            () => return Ok(()),
        };
        Err(stop_trouble(&stop, "", &self.limits))
    }

    /// Sends a request for a page. A link of the API may lead to a host of `allow_hosts`: it gets no credentials.
    pub fn ask(&self, request: &Request, credentials: &Credentials) -> Result<Answer, Trouble> {
        match request.url.origin() == self.base.origin() {
            true => self.send(request, credentials),
            false => self.send(request, &Credentials::default()),
        }
    }

    /// Sends a request; follows redirects. A status of any kind is an answer.
    pub fn send(&self, request: &Request, credentials: &Credentials) -> Result<Answer, Trouble> {
        let mut request = request.clone();
        let mut credentials = credentials.clone();
        let home = request.url.origin();
        for _ in 0..=self.limits.max_redirects {
            let answer = self.once(&request, &credentials)?;
            let status = StatusCode::from_u16(answer.status).unwrap_or_default();
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let from = shown(&request.url);
            let target = self.redirect(&request.url, &answer)?;
            if request.post {
                if answer.status == 303 {
                    request.post = false;
                    request.body = None;
                } else if !matches!(answer.status, 307 | 308) || target.origin() != home {
                    let message = format!("the API redirects a POST request with status {status}");
                    let detail = format!("{from} leads to {}.", shown(&target));
                    return Err(Trouble::lasting(Failure::new(code::PROTOCOL_VIOLATION, message).detail(detail)));
                }
            }
            if target.origin() != home {
                credentials = Credentials::default();
            }
            request.url = target;
        }
        let message = format!("more than {} redirects", self.limits.max_redirects);
        Err(Trouble::lasting(
            Failure::new(code::PROGRAM_LIMIT, message).detail(format!("The last one led to {}.", shown(&request.url))),
        ))
    }

    fn redirect(&self, from: &Url, answer: &Answer) -> Result<Url, Trouble> {
        let refused = |why: String| {
            let message = format!("the API redirects to a place that is not asked: {why}");
            Trouble::lasting(
                Failure::new(code::INSUFFICIENT_PRIVILEGE, message)
                    .detail(format!("{} answered with status {}.", shown(from), answer.status))
                    .hint("If the host belongs to the API, add it to allow_hosts."),
            )
        };
        let location = answer.header("Location").ok_or_else(|| refused("no location".into()))?;
        let target = from.join(location).map_err(|e| refused(e.to_string()))?;
        self.may_go_to(&target).map_err(refused)?;
        Ok(target)
    }

    /// One request, one answer.
    fn once(&self, request: &Request, credentials: &Credentials) -> Result<Answer, Trouble> {
        let mut url = request.url.clone();
        if !credentials.query.is_empty() {
            let mut pairs = url.query_pairs_mut();
            for (name, secret) in &credentials.query {
                pairs.append_pair(name, secret.expose());
            }
        }
        url.set_fragment(None);
        let mut built = ureq::http::Request::builder()
            .method(if request.post { Method::POST } else { Method::GET })
            .uri(url.as_str());
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        for (name, secret) in &credentials.headers {
            let mut value = ureq::http::HeaderValue::from_str(secret.expose()).map_err(|_| {
                Trouble::lasting(Failure::new(
                    code::INVALID_AUTHORIZATION,
                    format!("the secret for the header \"{name}\" holds characters that no header can carry"),
                ))
            })?;
            value.set_sensitive(true);
            built = built.header(name, value);
        }
        if let Some((content_type, _)) = &request.body {
            built = built.header("Content-Type", *content_type);
        }
        let wrong = |e: ureq::http::Error| {
            Trouble::lasting(Failure::new(code::INVALID_VALUE, format!("a request can't be made: {e}")))
        };
        self.control.phase("the answer", Duration::from_millis(self.limits.request_ms));
        let result = match &request.body {
            Some((_, body)) => self.agent.run(built.body(&body[..]).map_err(wrong)?),
            None => self.agent.run(built.body(()).map_err(wrong)?),
        };
        let response = result.map_err(|e| self.explain(&request.url, e))?;
        let (head, body) = response.into_parts();
        if let Some(coding) = head.headers.get("Content-Encoding") {
            if coding != "identity" {
                let coding = String::from_utf8_lossy(coding.as_bytes()).into_owned();
                let message = format!("the API answers in the encoding \"{coding}\", which was not asked for");
                return Err(Trouble::lasting(Failure::new(code::PROTOCOL_VIOLATION, message)));
            }
        }
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            url: request.url.clone(),
            body: Body {
                inner: body.into_with_config().limit(u64::MAX).reader(),
                control: Arc::clone(&self.control),
                read: 0,
                max: self.limits.max_body_bytes,
            },
        })
    }

    /// What went wrong, from what we stopped ourselves or else from what ureq says.
    fn explain(&self, url: &Url, e: ureq::Error) -> Trouble {
        if let Some(stop) = self.control.stopped() {
            return stop_trouble(&stop, &host_of(url), &self.limits);
        }
        let host = host_of(url);
        match e {
            ureq::Error::Io(e) => self.explain_io(&host, &e),
            ureq::Error::Rustls(e) => tls_trouble(&host, &e.to_string()),
            ureq::Error::Tls(e) => tls_trouble(&host, e),
            ureq::Error::LargeResponseHeader(size, max) => Trouble::lasting(
                Failure::new(code::PROGRAM_LIMIT, format!("the header of an answer from \"{host}\" is too large"))
                    .detail(format!("It has {size} bytes or more; the limit is {max}."))
                    .hint("If that is as it should be, raise max_header_bytes in the source's limits."),
            ),
            ureq::Error::BadUri(e) => Trouble::lasting(Failure::new(code::INVALID_VALUE, format!("no address: {e}"))),
            e => Trouble::passing(
                Failure::new(code::CONNECTION_FAILURE, format!("\"{host}\" broke the rules of HTTP"))
                    .detail(format!("{e}.")),
            ),
        }
    }

    fn explain_io(&self, host: &str, e: &io::Error) -> Trouble {
        let text = e.to_string();
        // rustls errors come wrapped in those of the handshake's reads.
        if e.kind() == io::ErrorKind::InvalidData && e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return tls_trouble(host, &text);
        }
        Trouble::passing(
            Failure::new(code::CONNECTION_FAILURE, format!("the connection to \"{host}\" broke"))
                .detail(format!("{text}.")),
        )
    }

    /// The same for an error that reading a body gave.
    pub fn explain_read(&self, url: &Url, e: &io::Error) -> Trouble {
        let host = host_of(url);
        match self.control.stopped() {
            Some(stop) => stop_trouble(&stop, &host, &self.limits),
            None => self.explain_io(&host, e),
        }
    }
}

/// The host that a message names.
pub fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        _ => String::new(),
    }
}

fn tls_trouble(host: &str, why: &str) -> Trouble {
    Trouble::lasting(
        Failure::new(code::CANNOT_CONNECT, format!("the identity of \"{host}\" can't be verified"))
            .detail(format!("{why}."))
            .hint("A root certificate of your own can be named in startup_wh.ca_file; the system's come from ca-certificates."),
    )
}

pub fn stop_trouble(stop: &Stop, host: &str, limits: &Limits) -> Trouble {
    match stop {
        Stop::Cancelled => Trouble::lasting(Failure::new(code::CANCELED, "canceled while waiting for the network")),
        Stop::RunTime => Trouble::lasting(
            Failure::new(code::INSUFFICIENT_RESOURCES, "the run's time is used up")
                .detail(format!("It may take {} ms.", limits.run_ms))
                .hint("The next run goes on from what is stored; run_ms in the source's limits gives it more time."),
        ),
        Stop::Slow(what) => {
            let ms = if *what == "connecting" { limits.connect_ms } else { limits.request_ms };
            Trouble::passing(
                Failure::new(code::CONNECTION_FAILURE, format!("\"{host}\" is too slow"))
                    .detail(format!("The time for {what} is {ms} ms.")),
            )
        }
        Stop::Refused(what) => Trouble::lasting(
            Failure::new(code::INSUFFICIENT_PRIVILEGE, format!("\"{host}\" is not asked: its address is not public"))
                .detail(format!("{what}."))
                .hint("A superuser can list ranges in startup_wh.allow_private_network."),
        ),
        Stop::TooLarge(what) => Trouble::lasting(
            Failure::new(code::PROGRAM_LIMIT, format!("an answer from \"{host}\" is too large"))
                .detail(format!("{what}."))
                .hint("If that is as it should be, raise max_body_bytes in the source's limits."),
        ),
        Stop::Unresolved(what) => Trouble::passing(
            Failure::new(code::CANNOT_CONNECT, format!("the address of \"{host}\" can't be found"))
                .detail(format!("{what}."))
                .hint("Check the host in base_url, and whether the server can look up names."),
        ),
        Stop::Unreachable(what) => Trouble::passing(
            Failure::new(code::CANNOT_CONNECT, format!("\"{host}\" can't be reached"))
                .detail(format!("{what}."))
                .hint("Check the host and port in base_url, and whether a firewall lets the server reach them."),
        ),
    }
}

/// The origin of the source, or a host that its spec lists, over TLS.
pub fn may_go_to(base: &Url, allow_hosts: &[String], url: &Url) -> Result<(), String> {
    if url.origin() == base.origin() {
        return Ok(());
    }
    let host = url.host_str().unwrap_or_default();
    if base.scheme() == "https" && url.scheme() != "https" {
        return Err(format!("{}://{} is not encrypted, and {} is", url.scheme(), host_of(url), host_of(base)));
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("\"{}\" is no scheme of the web", url.scheme()));
    }
    let listed = allow_hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.')),
        None => pattern == host,
    });
    // A listed host is meant at its scheme's own port, or that of the source.
    if listed && (url.port().is_none() || url.port() == base.port()) {
        Ok(())
    } else {
        Err(format!("\"{}\" is not a host of this source", host_of(url)))
    }
}

/// The body of an answer, inflated and counted.
pub struct Body {
    inner: ureq::BodyReader<'static>,
    control: Arc<Control>,
    read: u64,
    max: u64,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A bomb inflates faster than the network is waited for, so the clock is looked at here too.
        self.control.check()?;
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        if self.read > self.max {
            return Err(self.control.stop(Stop::TooLarge(format!("It has more than {} bytes", self.max))));
        }
        Ok(n)
    }
}

/// The system's roots and those given. The system's, because a company's own authority is there too, and because
/// they are renewed without a new version of this extension.
fn roots(network: &Network) -> Result<RootCerts, Failure> {
    static SYSTEM: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    let system = SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
    });
    let mut roots = system.clone();
    if let Some(pem) = &network.roots {
        let before = roots.len();
        for item in ureq::tls::parse_pem(pem.as_bytes()) {
            match item {
                Ok(PemItem::Certificate(certificate)) => roots.push(certificate),
                Ok(_) => {}
                Err(e) => {
                    return Err(Failure::new(code::INVALID_VALUE, "the given root certificates can't be read")
                        .detail(format!("{e}.")))
                }
            }
        }
        if roots.len() == before {
            return Err(Failure::new(code::INVALID_VALUE, "the given root certificates hold no certificate"));
        }
    }
    Ok(RootCerts::from(roots))
}

/// Now, by the server's clock where it tells it.
pub fn servers_now(answer: &Answer) -> SystemTime {
    answer.header("Date").and_then(super::retry::http_date).unwrap_or_else(SystemTime::now)
}

/// Runs `work` with the clock of the answer's time stopped: it waits for us, not for the network.
pub fn unhurried<T>(control: &Control, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    control.extend(began.elapsed());
    result
}
