//! How a request proves who sends it. Secrets are names; their values are looked up when a fetch starts.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Auth {
    #[default]
    None,
    /// `Authorization: Bearer SECRET`
    Bearer { secret: String },
    /// `Authorization: Basic base64(USER:SECRET)`. With `secret_is_user` the secret is the user, its password empty.
    Basic {
        #[serde(default)]
        user: String,
        secret: String,
        #[serde(default)]
        secret_is_user: bool,
    },
    /// `NAME: PREFIX SECRET`; the prefix is put in front as it is, so a blank after it stands in it.
    Header {
        name: String,
        secret: String,
        #[serde(default)]
        prefix: String,
    },
    /// `?NAME=SECRET`; taken out of every message that shows a URL.
    Query { name: String, secret: String },
    /// A token that is asked for at `token_url` and lasts for a while.
    OAuth2 {
        token_url: Url,
        client_id: String,
        client_secret: String,
        #[serde(default)]
        scopes: Vec<String>,
        /// The secret that holds a refresh token; for `grant` refresh_token.
        #[serde(default)]
        refresh_secret: Option<String>,
        #[serde(default)]
        grant: Grant,
        #[serde(default)]
        client_auth: ClientAuth,
        /// More form fields of the token's request, an audience for example.
        #[serde(default)]
        params: BTreeMap<String, String>,
    },
    /// A token signed by us. With `token_url` it is exchanged there for a bearer token (RFC 7523), else it is that token.
    Jwt {
        /// The secret that holds the key: PEM for RS256 and ES256, the shared secret for HS256.
        secret: String,
        algorithm: Algorithm,
        #[serde(default)]
        key_id: Option<String>,
        /// Claims besides `iat` and `exp`.
        #[serde(default)]
        claims: serde_json::Map<String, serde_json::Value>,
        #[serde(default = "five_minutes")]
        lifetime_s: u64,
        #[serde(default)]
        token_url: Option<Url>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    #[default]
    ClientCredentials,
    RefreshToken,
}

/// Where the client's id and secret stand in the token's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[default]
    Body,
    Basic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    RS256,
    ES256,
    HS256,
}

fn five_minutes() -> u64 {
    300
}

impl Auth {
    /// Whether tokens come for a refresh token, which may be another one each time.
    pub fn refreshes(&self) -> bool {
        matches!(self, Auth::OAuth2 { grant: Grant::RefreshToken, .. })
    }

    /// The names of the secrets that this needs.
    pub fn secrets(&self) -> Vec<&str> {
        match self {
            Auth::None => Vec::new(),
            Auth::Bearer { secret }
            | Auth::Basic { secret, .. }
            | Auth::Header { secret, .. }
            | Auth::Query { secret, .. }
            | Auth::Jwt { secret, .. } => vec![secret],
            Auth::OAuth2 { client_secret, refresh_secret, .. } => {
                std::iter::once(client_secret).chain(refresh_secret).map(String::as_str).collect()
            }
        }
    }
}
