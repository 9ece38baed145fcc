//! Pointers and templates.

use crate::sources::generator::Generator;
use crate::sources::spec::{Piece, Pointer, Template};

#[test]
fn pointers_read_and_print_as_rfc_6901_has_it() {
    for (text, tokens) in [
        ("", &[][..]),
        ("/", &[""]),
        ("/a/b", &["a", "b"]),
        ("/a~1b/~0c", &["a/b", "~c"]),
        ("/~01", &["~1"]),
        ("/0/é", &["0", "é"]),
    ] {
        let pointer = Pointer::parse(text).unwrap();
        assert_eq!(pointer.tokens(), tokens, "{text}");
        assert_eq!(pointer.to_string(), text);
    }
    for text in ["a", "a/b", "/~", "/~2", "/a~"] {
        assert!(Pointer::parse(text).is_err(), "{text}");
    }
}

#[test]
fn any_pointer_survives_being_printed() {
    let mut generator = Generator::new(9);
    for _ in 0..5_000 {
        let text = format!("/{}", generator.text(20));
        if let Ok(pointer) = Pointer::parse(&text) {
            assert_eq!(Pointer::parse(&pointer.to_string()), Ok(pointer), "{text}");
        }
    }
}

#[test]
fn templates_are_filled() {
    let template = Template::parse("a/{id}/{{b}}/{id}{x}").unwrap();
    assert_eq!(template.places().collect::<Vec<_>>(), ["id", "id", "x"]);
    assert_eq!(template.pieces()[0], Piece::Text("a/".into()));
    assert_eq!(template.fill(|name| Some(name.to_uppercase())).unwrap(), "a/ID/{b}/IDX");
    assert_eq!(template.fill(|name| (name == "id").then(String::new)), Err("x".into()));
    for text in ["{", "}", "{}", "{a", "{a b}", "{a}}", "a}b"] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
}

#[test]
fn no_value_leaves_its_segment_of_a_path() {
    let template = Template::parse("a/{id}/b").unwrap();
    let base = url::Url::parse("https://api.example.com/v1/").unwrap();
    let mut generator = Generator::new(11);
    let mut values: Vec<String> = (0..5_000).map(|_| generator.text(12)).collect();
    values
        .extend(["../../x", "..", ".", "%2e%2e", "a/b", "a?b", "a#b", "\\\\evil", "//evil", "é", ""].map(String::from));
    let mut refused = 0;
    for value in values {
        let Ok(path) = template.fill_path(|_| Some(value.clone())) else {
            assert!(matches!(value.as_str(), "" | "." | ".."), "{value:?} is refused");
            refused += 1;
            continue;
        };
        let url = base.join(&path).unwrap();
        assert_eq!((url.host_str(), url.query(), url.fragment()), (Some("api.example.com"), None, None), "{value:?}");
        let segments: Vec<&str> = url.path_segments().unwrap().collect();
        assert_eq!(segments.len(), 4, "{value:?} gave {url}");
        assert_eq!((segments[0], segments[1], segments[3]), ("v1", "a", "b"), "{value:?} gave {url}");
    }
    assert!(refused >= 3);
}
