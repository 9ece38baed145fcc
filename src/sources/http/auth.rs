//! From the spec's auth and the secrets to what a request carries. Tokens are asked for when first needed, kept while
//! they last, and asked for anew, once, when the API refuses them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::Engine;
use ring::{hmac, rand::SystemRandom, signature};
use serde_json::{json, Map, Value};
use url::Url;

use super::client::{host_of, Client, Credentials, Request};
use super::failure::{code, Failure, Trouble};
use super::secret::{Scrubber, Secret};
use super::tokens::Desk;
use crate::sources::spec::{Algorithm, Auth, ClientAuth, Grant};

/// What a token's endpoint may answer with.
const MAX_TOKEN_ANSWER: u64 = 256 << 10;

pub struct Authenticator {
    auth: Auth,
    secrets: Arc<HashMap<String, Secret>>,
    token: Option<(Secret, Instant)>,
    /// Tokens so far.
    tokens: u64,
    /// The newest one that came with a token; servers that rotate them forget the last.
    refresh: Option<Secret>,
    /// Where it is kept; none: only here.
    desk: Option<Desk>,
}

impl Authenticator {
    pub fn new(auth: Auth, secrets: Arc<HashMap<String, Secret>>, desk: Option<Desk>) -> Self {
        Authenticator { auth, secrets, token: None, tokens: 0, refresh: None, desk }
    }

    fn secret(&self, name: &str) -> Result<Secret, Trouble> {
        self.secrets.get(name).cloned().ok_or_else(|| {
            Trouble::lasting(
                Failure::new(code::UNDEFINED_OBJECT, format!("secret \"{name}\" does not exist"))
                    .hint(format!("Set it: SELECT wh.set_secret('{}', '…');", name.replace('\'', "''"))),
            )
        })
    }

    /// Forgets the token of this number, which was refused; another thread may have a newer one by now.
    pub fn forget_token(&mut self, number: u64) {
        if self.tokens == number {
            self.token = None;
        }
    }

    /// What the next request carries. All of it, and all that came on the way, is made known to `scrubber`.
    pub fn credentials(&mut self, client: &Client, scrubber: &mut Scrubber) -> Result<Credentials, Trouble> {
        for secret in self.secrets.values() {
            scrubber.hide(secret.expose());
        }
        let header = |name: &str, value: String| Credentials {
            headers: vec![(name.to_owned(), Secret::new(value))],
            ..Credentials::default()
        };
        let found = match &self.auth {
            Auth::None => Credentials::default(),
            Auth::Bearer { secret } => header("Authorization", format!("Bearer {}", self.secret(secret)?.expose())),
            Auth::Basic { user, secret, secret_is_user } => {
                let secret = self.secret(secret)?;
                let pair = if *secret_is_user {
                    format!("{}:", secret.expose())
                } else {
                    format!("{user}:{}", secret.expose())
                };
                let encoded = STANDARD.encode(pair);
                scrubber.hide(&encoded);
                header("Authorization", format!("Basic {encoded}"))
            }
            Auth::Header { name, secret, prefix } => header(name, format!("{prefix}{}", self.secret(secret)?.expose())),
            Auth::Query { name, secret } => {
                Credentials { query: vec![(name.clone(), self.secret(secret)?)], ..Credentials::default() }
            }
            Auth::OAuth2 { .. } | Auth::Jwt { .. } => {
                let token = self.token(client, scrubber)?;
                // It may be another thread that got it.
                for secret in self.refresh.iter().chain([&token]) {
                    scrubber.hide(secret.expose());
                }
                Credentials { token: self.tokens, ..header("Authorization", format!("Bearer {}", token.expose())) }
            }
        };
        Ok(found)
    }

    fn token(&mut self, client: &Client, scrubber: &mut Scrubber) -> Result<Secret, Trouble> {
        if let Some((token, good_until)) = &self.token {
            if Instant::now() < *good_until {
                return Ok(token.clone());
            }
        }
        let (token, lasts) = match self.auth.clone() {
            Auth::OAuth2 {
                token_url,
                client_id,
                client_secret,
                scopes,
                refresh_secret,
                grant,
                client_auth,
                params,
            } => {
                let client_secret = self.secret(&client_secret)?;
                let mut form: Vec<(String, String)> = params.into_iter().collect();
                let mut sent = None;
                match (grant, refresh_secret) {
                    (Grant::ClientCredentials, _) => form.push(("grant_type".into(), "client_credentials".into())),
                    (Grant::RefreshToken, Some(name)) => {
                        let refresh = self.refresh_token(&name, client)?;
                        scrubber.hide(refresh.expose());
                        form.push(("grant_type".into(), "refresh_token".into()));
                        form.push(("refresh_token".into(), refresh.expose().into()));
                        sent = Some((name, refresh));
                    }
                    (Grant::RefreshToken, None) => {
                        return Err(Trouble::lasting(Failure::new(
                            code::INVALID_VALUE,
                            "the grant refresh_token needs a refresh_secret",
                        )))
                    }
                }
                if !scopes.is_empty() {
                    form.push(("scope".into(), scopes.join(" ")));
                }
                let mut headers = Vec::new();
                match client_auth {
                    ClientAuth::Body => {
                        form.push(("client_id".into(), client_id));
                        form.push(("client_secret".into(), client_secret.expose().into()));
                    }
                    ClientAuth::Basic => {
                        // RFC 6749, section 2.3.1: each half is form-encoded first.
                        let half =
                            |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                        let pair = STANDARD.encode(format!("{}:{}", half(&client_id), half(client_secret.expose())));
                        scrubber.hide(&pair);
                        headers.push(("Authorization".to_owned(), Secret::new(format!("Basic {pair}"))));
                    }
                }
                let credentials = Credentials { headers, ..Credentials::default() };
                self.exchange(client, &token_url, form, credentials, sent, scrubber)?
            }
            Auth::Jwt { secret, algorithm, key_id, claims, lifetime_s, token_url } => {
                let key = self.secret(&secret)?;
                let signed =
                    Secret::new(sign(&key, algorithm, key_id.as_deref(), &claims, lifetime_s, SystemTime::now())?);
                scrubber.hide(signed.expose());
                match token_url {
                    None => (signed, Duration::from_secs(lifetime_s)),
                    Some(token_url) => {
                        let form = vec![
                            ("grant_type".into(), "urn:ietf:params:oauth:grant-type:jwt-bearer".into()),
                            ("assertion".into(), signed.expose().to_owned()),
                        ];
                        self.exchange(client, &token_url, form, Credentials::default(), None, scrubber)?
                    }
                }
            }
            _ => return Err(Trouble::lasting(Failure::new(code::INVALID_VALUE, "this source has no token"))),
        };
        scrubber.hide(token.expose());
        // A token that ends while its request is on the way is refused for nothing.
        let margin = (lasts / 10).min(Duration::from_secs(60));
        self.token = Some((token.clone(), Instant::now() + lasts.saturating_sub(margin)));
        self.tokens += 1;
        Ok(token)
    }

    /// The refresh token to send: another run may have spent the one that this one began with.
    fn refresh_token(&self, name: &str, client: &Client) -> Result<Secret, Trouble> {
        match (&self.desk, &self.refresh) {
            (Some(desk), _) => desk.current(name, client),
            (None, Some(newest)) => Ok(newest.clone()),
            (None, None) => self.secret(name),
        }
    }

    /// Asks the token's endpoint; `sent` is the refresh token, and the name of its secret.
    fn exchange(
        &mut self,
        client: &Client,
        token_url: &Url,
        form: Vec<(String, String)>,
        credentials: Credentials,
        sent: Option<(String, Secret)>,
        scrubber: &mut Scrubber,
    ) -> Result<(Secret, Duration), Trouble> {
        use std::io::Read;
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request {
            post: true,
            url: token_url.clone(),
            headers: vec![("Accept".into(), "application/json".into())],
            body: Some(("application/x-www-form-urlencoded", body.into_bytes())),
        };
        let answer = client.send(&request, &credentials)?;
        let status = answer.status;
        let host = host_of(token_url);
        let mut text = Vec::new();
        answer.body.take(MAX_TOKEN_ANSWER).read_to_end(&mut text).map_err(|e| client.explain_read(token_url, &e))?;
        let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
        if status >= 400 {
            // Of the answer only the two members that RFC 6749 gives for this; the rest may be anything.
            let said =
                [&answer["error"], &answer["error_description"]].iter().filter_map(|v| v.as_str()).collect::<Vec<_>>();
            let failure =
                Failure::new(code::INVALID_AUTHORIZATION, format!("\"{host}\" gives no token, with status {status}"));
            let failure = match said.join(": ") {
                said if said.is_empty() => failure,
                said => failure.detail(format!("It says: {}.", scrubber.scrub(&said))),
            };
            let failure = match &sent {
                Some((name, _)) if status < 500 && status != 429 => failure.hint(format!(
                    "A refresh token that ended, was taken back or was spent elsewhere is made anew by authorizing the application again; then SELECT wh.set_secret('{name}', '…'). Let nothing else use it."
                )),
                _ => failure,
            };
            return Err(Trouble { failure, passing: status == 429 || status >= 500 });
        }
        let Some(token) = answer["access_token"].as_str().filter(|token| !token.is_empty()) else {
            let message = format!("the answer of \"{host}\" holds no access_token");
            return Err(Trouble::lasting(Failure::new(code::INVALID_AUTHORIZATION, message)));
        };
        if let (Some(new), Some((name, old))) = (answer["refresh_token"].as_str().filter(|new| !new.is_empty()), sent) {
            scrubber.hide(new);
            let new = Secret::new(new);
            self.refresh = Some(new.clone());
            // Before the token is used: what is not kept is lost with this process.
            if let Some(desk) = self.desk.as_ref().filter(|_| new != old) {
                desk.rotate(&name, old, new, client)?;
            }
        }
        let lasts = answer["expires_in"].as_u64().or_else(|| answer["expires_in"].as_str()?.parse().ok());
        // Without a word on it: short enough to be right, long enough to be of use.
        Ok((Secret::new(token), Duration::from_secs(lasts.unwrap_or(300).min(365 * 24 * 3600))))
    }
}

/// A JSON web token (RFC 7519) in the compact form.
fn sign(
    key: &Secret,
    algorithm: Algorithm,
    key_id: Option<&str>,
    claims: &Map<String, Value>,
    lifetime_s: u64,
    now: SystemTime,
) -> Result<String, Trouble> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = match algorithm {
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        Algorithm::HS256 => "HS256",
    };
    let mut header = json!({"alg": name, "typ": "JWT"});
    if let Some(key_id) = key_id {
        header["kid"] = key_id.into();
    }
    let mut all = claims.clone();
    all.insert("iat".into(), now.into());
    all.insert("exp".into(), (now + lifetime_s).into());
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(Value::Object(all).to_string())
    );
    let bad_key = |why: &str| {
        Trouble::lasting(
            Failure::new(code::INVALID_AUTHORIZATION, format!("the secret is no key for {name}"))
                .detail(format!("{why}."))
                .hint("It has to be a private key in PEM, in the form PKCS#8 (or PKCS#1 for RSA)."),
        )
    };
    let random = SystemRandom::new();
    let signature = match algorithm {
        Algorithm::HS256 => {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()), text.as_bytes()).as_ref().to_vec()
        }
        Algorithm::RS256 => {
            let (pkcs8, der) = private_key(key).ok_or_else(|| bad_key("It holds no private key"))?;
            let pair =
                if pkcs8 { signature::RsaKeyPair::from_pkcs8(&der) } else { signature::RsaKeyPair::from_der(&der) }
                    .map_err(|e| bad_key(&format!("It is rejected: {e}")))?;
            let mut signed = vec![0; pair.public().modulus_len()];
            pair.sign(&signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signed)
                .map_err(|_| bad_key("It can't sign"))?;
            signed
        }
        Algorithm::ES256 => {
            let (_, der) = private_key(key).ok_or_else(|| bad_key("It holds no private key"))?;
            let pair = signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
                .map_err(|e| bad_key(&format!("It is rejected: {e}")))?;
            pair.sign(&random, text.as_bytes()).map_err(|_| bad_key("It can't sign"))?.as_ref().to_vec()
        }
    };
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Whether it is PKCS#8, and its bytes.
fn private_key(pem: &Secret) -> Option<(bool, Vec<u8>)> {
    use rustls::pki_types::{pem::PemObject, PrivateKeyDer};
    match PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(der) => Some((true, der.secret_pkcs8_der().to_vec())),
        PrivateKeyDer::Pkcs1(der) => Some((false, der.secret_pkcs1_der().to_vec())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
