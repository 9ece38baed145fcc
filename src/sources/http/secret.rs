//! Values that must not be seen: in no message, no log, no `Debug`.

use std::fmt;

use base64::Engine;

/// A secret's value. It prints as stars, and its memory is overwritten when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself, for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Takes secrets out of texts that leave us. An API may send back what it was sent, in an error or a redirect.
#[derive(Default)]
pub struct Scrubber {
    needles: Vec<Secret>,
}

impl Scrubber {
    /// The value, and the forms in which it goes over the wire.
    pub fn hide(&mut self, secret: &str) {
        // A shorter one says nothing, and would take letters out of every word.
        if secret.len() < 4 {
            return;
        }
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let base64 = base64::engine::general_purpose::STANDARD.encode(secret);
        let quoted = serde_json::Value::from(secret).to_string();
        let quoted = quoted.trim_matches('"').to_owned();
        for form in [secret.to_owned(), encoded, base64, quoted] {
            if !self.needles.iter().any(|n| n.expose() == form) {
                self.needles.push(Secret(form));
            }
        }
        // The longest first: one secret may hold another.
        self.needles.sort_by_key(|n| std::cmp::Reverse(n.expose().len()));
    }

    pub fn scrub(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for needle in &self.needles {
            if text.contains(needle.expose()) {
                text = text.replace(needle.expose(), "***");
            }
        }
        text
    }
}

/// An address fit to be shown: no user, no password, no fragment, and the values of its parameters only where they
/// can be no secret.
pub fn shown(url: &url::Url) -> String {
    let mut shown = url.clone();
    // Fails for addresses without a host, which have neither.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let value = if may_be_secret(&name) { "***".to_owned() } else { value.into_owned() };
                (name.into_owned(), value)
            })
            .collect();
        shown.query_pairs_mut().clear().extend_pairs(pairs);
    }
    shown.into()
}

fn may_be_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "token", "secret", "password", "passwd", "auth", "sig", "credential", "session", "code"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("sesame");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "sesame");
    }

    #[test]
    fn secrets_leave_texts_in_every_form_they_travel_in() {
        let mut scrubber = Scrubber::default();
        scrubber.hide("open/sesame &\"x");
        scrubber.hide("open");
        scrubber.hide("a");
        for form in ["open/sesame &\"x", "open%2Fsesame+%26%22x", "b3Blbi9zZXNhbWUgJiJ4", "open/sesame &\\\"x"] {
            assert_eq!(scrubber.scrub(&format!("<{form}> a")), "<***> a");
        }
    }

    #[test]
    fn a_shown_address_holds_no_credential() {
        let url = url::Url::parse(
            "https://me:pw@api.example/v1/list?limit=5&api_key=sesame&Access-Token=sesame&X-Amz-Signature=sesame#sesame",
        )
        .unwrap();
        let shown = shown(&url);
        assert!(!shown.contains("sesame") && !shown.contains("pw"), "{shown}");
        assert!(shown.starts_with("https://api.example/v1/list?limit=5&api_key="), "{shown}");
    }
}
