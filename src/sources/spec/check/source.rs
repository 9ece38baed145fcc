//! The source as a whole: addresses, headers, secrets.

use url::{Host, Url};

use super::{token, Problems};
use crate::sources::spec::{Auth, Spec};

pub fn check(spec: &Spec, problems: &mut Problems) {
    address("/base_url", &spec.base_url, problems);
    if spec.base_url.query().is_some() {
        problems.add("/base_url", "base_url has a query", "params, in each stream");
    }
    if let Auth::OAuth2 { token_url, .. } | Auth::Jwt { token_url: Some(token_url), .. } = &spec.auth {
        address("/auth/token_url", token_url, problems);
    }
    auth(&spec.auth, problems);
    headers("", &spec.headers, problems);
    for (at, rule) in spec.errors.iter().enumerate() {
        if rule.body.is_none() && rule.status.iter().any(|status| *status < 400) {
            problems.add(
                format!("/errors/{at}/status"),
                "an answer below 400 is an error only by its body",
                "\"body\": {\"pointer\": …, \"equals\": …} beside it",
            );
        }
    }
    if spec.retry.base_ms > spec.retry.max_ms {
        problems.add("/retry/base_ms", "the first wait is longer than the longest", "base_ms up to max_ms");
    }
}

fn address(at: &str, url: &Url, problems: &mut Problems) {
    if url.scheme() != "https" && !is_loopback(url) {
        problems.add(at, format!("{} is not encrypted", url.scheme()), "https; http for this machine only");
    }
    if !url.username().is_empty() || url.password().is_some() {
        problems.add(at, "a URL has credentials in it", "auth, with the name of a secret");
    }
    if url.fragment().is_some() {
        problems.add(at, "a URL has a fragment", "no # in it");
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn auth(auth: &Auth, problems: &mut Problems) {
    let members: &[(&str, Option<&str>)] = match auth {
        Auth::None => &[],
        Auth::Bearer { secret }
        | Auth::Basic { secret, .. }
        | Auth::Header { secret, .. }
        | Auth::Query { secret, .. }
        | Auth::Jwt { secret, .. } => &[("secret", Some(secret))],
        Auth::OAuth2 { client_secret, refresh_secret, .. } => {
            &[("client_secret", Some(client_secret)), ("refresh_secret", refresh_secret.as_deref())]
        }
    };
    for (member, secret) in members {
        if secret.is_some_and(looks_like_a_secret) {
            problems.add(
                format!("/auth/{member}"),
                "this looks like a secret itself",
                "a name, after SELECT wh.set_secret('name', 'the secret'); and give the API another secret: this one \
                 has been written down",
            );
        }
    }
    match auth {
        Auth::Basic { user, secret_is_user: true, .. } if !user.is_empty() => {
            problems.add("/auth/user", "the secret is the user already", "either user or secret_is_user");
        }
        Auth::OAuth2 { grant, refresh_secret, .. } => {
            let refresh = *grant == crate::sources::spec::Grant::RefreshToken;
            if refresh != refresh_secret.is_some() {
                problems.add(
                    "/auth/refresh_secret",
                    "a refresh token and the grant do not fit",
                    "refresh_secret with \"grant\": \"refresh_token\", and only there",
                );
            }
        }
        _ => {}
    }
}

/// How well-known secrets begin; a name that begins so is one that somebody pasted.
pub fn looks_like_a_secret(text: &str) -> bool {
    const STARTS: &[&str] = &[
        "sk_live_",
        "sk_test_",
        "rk_live_",
        "rk_test_",
        "whsec_",
        "ghp_",
        "gho_",
        "ghs_",
        "ghu_",
        "github_pat_",
        "glpat-",
        "xoxb-",
        "xoxp-",
        "pat-na",
        "pat-eu",
        "Bearer ",
        "Basic ",
        "eyJ",
        "AKIA",
        "dG9r",
    ];
    STARTS.iter().any(|start| text.len() > start.len() && text.starts_with(start))
}

/// Headers that are ours, or that hold credentials.
pub fn headers(at: &str, headers: &[(String, String)], problems: &mut Problems) {
    for (name, value) in headers {
        let at = format!("{at}/headers/{}", token(name));
        match name.to_ascii_lowercase().as_str() {
            "authorization" | "proxy-authorization" | "cookie" | "x-api-key" => {
                problems.add(at, format!("the header \"{name}\" holds credentials"), "auth, with the name of a secret");
            }
            "host" | "content-length" | "transfer-encoding" | "connection" | "accept-encoding" | "user-agent"
            | "te" | "upgrade" | "if-none-match" => {
                problems.add(at, format!("the header \"{name}\" is set by the extension"), "no such header");
            }
            _ if looks_like_a_secret(value) => {
                problems.add(at, "this looks like a secret", "auth, with the name of a secret");
            }
            _ => {}
        }
    }
    for (index, (name, _)) in headers.iter().enumerate() {
        if headers[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            problems.add(format!("{at}/headers/{}", token(name)), "the header stands twice", "it once");
        }
    }
}
