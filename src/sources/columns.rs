//! From a value of JSON to a column: its type, and the text that COPY gets. Numbers never pass through f64.

use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Boolean,
    Bigint,
    Numeric,
    Text,
    Jsonb,
    Timestamptz,
    Date,
    /// Another SQL type that the spec declares, by its name; it stays as it is.
    Declared(String),
}

impl Type {
    pub fn sql(&self) -> &str {
        match self {
            Type::Boolean => "boolean",
            Type::Bigint => "bigint",
            Type::Numeric => "numeric",
            Type::Text => "text",
            Type::Jsonb => "jsonb",
            Type::Timestamptz => "timestamptz",
            Type::Date => "date",
            Type::Declared(name) => name,
        }
    }

    /// By a name that [`Type::sql`] gives, or any other.
    pub fn named(name: &str) -> Type {
        match name {
            "boolean" => Type::Boolean,
            "bigint" => Type::Bigint,
            "numeric" => Type::Numeric,
            "text" => Type::Text,
            "jsonb" => Type::Jsonb,
            "timestamptz" => Type::Timestamptz,
            "date" => Type::Date,
            name => Type::Declared(name.into()),
        }
    }
}

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Type, D::Error> {
        Ok(Type::named(&String::deserialize(deserializer)?))
    }
}
