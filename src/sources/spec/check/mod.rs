//! What a schema can't say: whether the parts of a spec fit each other.

mod names;
mod places;
mod source;
mod stream;

use super::{Problem, Spec};

pub use source::looks_like_a_secret;

#[derive(Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>, right: impl Into<String>) {
        self.0.push(Problem { pointer: pointer.into(), message: message.into(), right: right.into() });
    }
}

/// A spec that the schema has passed.
pub fn check(spec: &Spec) -> Vec<Problem> {
    let mut problems = Problems::default();
    source::check(spec, &mut problems);
    names::check(spec, &mut problems);
    for (at, stream) in spec.streams.iter().enumerate() {
        let at = format!("/streams/{at}");
        stream::check(spec, stream, &at, &mut problems);
        places::check(spec, stream, &at, &mut problems);
    }
    problems.0
}

/// A member's name as part of a pointer.
pub fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
