//! Specs that ship: a JSON file each, which is an ordinary spec with settings, to be read and copied.

use serde_json::Value;

/// By name; what [`find`] knows and `wh.presets` shows.
const PRESETS: &[(&str, &str)] = &[
    ("front", include_str!("front.json")),
    ("github", include_str!("github.json")),
    ("hubspot", include_str!("hubspot.json")),
    ("intercom", include_str!("intercom.json")),
    ("salesforce", include_str!("salesforce.json")),
    ("stripe", include_str!("stripe.json")),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The text of a preset.
pub fn text(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A preset as a document, to be completed by [`crate::sources::spec::with_settings`].
pub fn find(name: &str) -> Option<Value> {
    serde_json::from_str(text(name)?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Map};

    use super::*;
    use crate::sources::names::identifier;
    use crate::sources::spec::{parse, with_settings, Paginator, Spec, Template, Write};

    /// With the examples as its settings, where it has no defaults.
    fn complete(name: &str) -> Spec {
        let preset = find(name).unwrap_or_else(|| panic!("{name} is no JSON"));
        let mut settings = Map::new();
        for (name, setting) in preset.get("settings").and_then(Value::as_object).into_iter().flatten() {
            if setting.get("default").is_none() {
                settings.insert(name.clone(), setting["example"].clone());
            }
        }
        let spec = with_settings(&preset, &settings.into()).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        parse(&spec).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
    }

    #[test]
    fn each_preset_is_a_spec_without_problems() {
        assert!(names().eq(["front", "github", "hubspot", "intercom", "salesforce", "stripe"]));
        for name in names() {
            let spec = complete(name);
            assert!(!spec.streams.is_empty());
            assert!(find(name).unwrap()["description"].is_string(), "{name} says nothing about itself");
        }
        assert_eq!(find("nobody"), None);
    }

    #[test]
    fn each_stream_has_a_key_and_a_table_of_its_name() {
        for name in names() {
            for stream in complete(name).streams {
                assert!(!stream.primary_key.is_empty(), "{name} {}", stream.name);
                assert_eq!(identifier(&stream.name), stream.name, "{name}");
                assert_eq!(stream.write, Write::Merge, "{name} {}", stream.name);
            }
        }
    }

    #[test]
    fn each_preset_has_the_streams_that_people_come_for() {
        for (name, streams) in [
            (
                "stripe",
                &[
                    "customers",
                    "subscriptions",
                    "invoices",
                    "charges",
                    "payment_intents",
                    "refunds",
                    "products",
                    "prices",
                    "balance_transactions",
                    "disputes",
                    "payouts",
                    "events",
                ][..],
            ),
            ("intercom", &["contacts", "companies", "conversations", "conversation_parts", "admins"]),
            ("front", &["contacts", "conversations", "messages", "inboxes", "tags", "teammates", "events"]),
            ("salesforce", &["accounts", "contacts", "leads", "opportunities", "users"]),
            ("hubspot", &["contacts", "companies", "deals", "tickets", "owners"]),
            ("github", &["repos", "issues", "pulls", "comments"]),
        ] {
            let spec = complete(name);
            for stream in streams {
                assert!(spec.streams.iter().any(|known| known.name == *stream), "{name} lacks {stream}");
            }
        }
    }

    #[test]
    fn presets_need_their_secrets_and_no_others() {
        let secrets: Vec<String> = names().map(|name| complete(name).auth.secrets().join(" ")).collect();
        let expected = [
            "front_token",
            "github_token",
            "hubspot_token",
            "intercom_token",
            "salesforce_client_secret",
            "stripe_key",
        ];
        assert_eq!(secrets, expected);
    }

    #[test]
    fn the_least_setting_points_a_preset_at_another_server() {
        let preset = find("stripe").unwrap();
        let spec = with_settings(&preset, &json!({"base_url": "http://127.0.0.1:8420/v1"})).unwrap();
        let spec = parse(&spec).unwrap();
        assert_eq!(spec.base_url.as_str(), "http://127.0.0.1:8420/v1/");
        assert!(spec.allow_hosts.is_empty());
    }

    /// The whole of Stripe's subscriptions, the cancelled ones too, and Salesforce's boundary of equal timestamps.
    #[test]
    fn known_traps_are_avoided() {
        let stripe = complete("stripe");
        let subscriptions = stripe.streams.iter().find(|stream| stream.name == "subscriptions").unwrap();
        assert!(subscriptions.params.contains(&("status".into(), Template::parse("all").unwrap())));
        let intercom = complete("intercom");
        let contacts = intercom.streams.iter().find(|stream| stream.name == "contacts").unwrap();
        // Its search compares days, and `>` leaves out the whole day of the bound.
        assert!(contacts.incremental.as_ref().unwrap().lookback_s >= 2 * 86_400);
        for stream in complete("salesforce").streams {
            let Paginator::Keyset { first: Some(first), next: Some(next), .. } = &stream.paginator else {
                panic!("{} has no keyset", stream.name)
            };
            let first = first.fill(|place| Some(format!("<{place}>"))).unwrap();
            let next = next.fill(|place| Some(format!("<{place}>"))).unwrap();
            assert!(first.contains("SystemModstamp >= <start>"), "{first}");
            assert!(
                next.contains("(SystemModstamp = <cursor> AND Id > '<key>') OR SystemModstamp > <cursor>"),
                "{next}"
            );
        }
        for stream in complete("front").streams {
            assert!(!matches!(stream.paginator, Paginator::NextUrl { .. }), "{} follows foreign links", stream.name);
        }
    }
}
