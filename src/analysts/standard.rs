//! What an analyst's role, schema and rights are like, and how one that is differs from it. Pure.
//!
//! wh.add_analyst does what is missing; wh.analysts shows what is missing and what is more than that.

use serde::Deserialize;

/// An analyst as the catalogs have them.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Analyst {
    /// 0: the role is gone.
    pub oid: u32,
    pub name: String,
    pub schema: String,
    pub can_login: bool,
    pub inherits: bool,
    /// SUPERUSER and the like.
    pub attributes: Vec<String>,
    pub in_group: bool,
    pub team: Option<Team>,
    /// Other roles that this one is a direct member of.
    pub others: Vec<String>,
    pub schema_owner: Option<String>,
    pub private: bool,
    /// The group has USAGE on the schema.
    pub group_uses: bool,
    /// The group reads what the analyst makes there from now on.
    pub group_reads: bool,
    /// Team and group read what the analyst makes in the team's schema.
    pub team_reads: bool,
    pub search_path: Option<String>,
    pub set_search_path: Option<String>,
    /// startup_wh.max_query_time is set for the role.
    pub limited: bool,
    /// More than SELECT on tables of apps and sources: privilege, relation.
    pub writes: Vec<(String, String)>,
    /// Schemas, other than their own and the team's, in which they were given CREATE.
    pub creates_in: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Team {
    pub name: String,
    pub schema: String,
    pub member: bool,
}

/// What is missing, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    Role,
    Login,
    Inherit,
    Group,
    Team(String),
    Schema,
    /// USAGE for the group.
    Usage,
    /// Default privileges of the group, and what is there already.
    Reading,
    /// The same of the team and the group in the team's schema.
    TeamReading,
    Path(String),
    Limit,
}

/// What is there and should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excess {
    Attribute(String),
    Member(String),
    Owner(String),
    Writes { privilege: String, relation: String },
    Creates(String),
}

/// The search_path of an analyst: their own schema, the team's, apps and sources, public. Quoted by `ident`.
pub fn path(a: &Analyst, open: &[String], ident: impl Fn(&str) -> String) -> String {
    let team = a.team.as_ref().map(|t| t.schema.as_str());
    let all =
        [Some(a.schema.as_str()), team].into_iter().flatten().chain(open.iter().map(String::as_str)).chain(["public"]);
    let mut path: Vec<&str> = Vec::new();
    for schema in all {
        if !path.contains(&schema) {
            path.push(schema);
        }
    }
    path.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}

/// What is missing. `path` is the one that the analyst should have.
pub fn missing(a: &Analyst, path: &str) -> Vec<Missing> {
    if a.oid == 0 {
        return vec![Missing::Role];
    }
    let mut found = Vec::new();
    let mut need = |holds: bool, what: Missing| {
        if !holds {
            found.push(what);
        }
    };
    need(a.can_login, Missing::Login);
    need(a.inherits, Missing::Inherit);
    need(a.in_group, Missing::Group);
    if let Some(team) = &a.team {
        need(team.member, Missing::Team(team.name.clone()));
    }
    need(a.schema_owner.is_some(), Missing::Schema);
    need(a.private || a.group_uses, Missing::Usage);
    need(a.private || a.group_reads, Missing::Reading);
    need(a.team.is_none() || a.team_reads, Missing::TeamReading);
    // One that somebody chose stays, and follows nothing.
    let chosen = a.search_path.is_some() && a.search_path != a.set_search_path;
    need(chosen || a.search_path.as_deref() == Some(path), Missing::Path(path.to_owned()));
    need(a.limited, Missing::Limit);
    found
}

/// What is more than the standard.
pub fn excess(a: &Analyst) -> Vec<Excess> {
    if a.oid == 0 {
        return Vec::new();
    }
    let owner = a.schema_owner.iter().filter(|o| **o != a.name);
    (a.attributes.iter().map(|x| Excess::Attribute(x.clone())))
        .chain(a.others.iter().map(|x| Excess::Member(x.clone())))
        .chain(owner.map(|x| Excess::Owner(x.clone())))
        .chain(a.writes.iter().map(|(p, r)| Excess::Writes { privilege: p.clone(), relation: r.clone() }))
        .chain(a.creates_in.iter().map(|x| Excess::Creates(x.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Analyst {
        Analyst {
            oid: 1,
            name: "alice".into(),
            schema: "alice".into(),
            can_login: true,
            inherits: true,
            in_group: true,
            schema_owner: Some("alice".into()),
            group_uses: true,
            group_reads: true,
            search_path: Some("alice, public".into()),
            set_search_path: Some("alice, public".into()),
            limited: true,
            ..Analyst::default()
        }
    }

    #[test]
    fn nothing_is_missing_of_one_that_is_as_it_should_be() {
        assert_eq!(missing(&alice(), "alice, public"), []);
        assert_eq!(excess(&alice()), []);
    }

    #[test]
    fn each_thing_that_is_missing_is_told() {
        let cases: Vec<(fn(&mut Analyst), Missing)> = vec![
            (|a| a.oid = 0, Missing::Role),
            (|a| a.can_login = false, Missing::Login),
            (|a| a.inherits = false, Missing::Inherit),
            (|a| a.in_group = false, Missing::Group),
            (|a| a.schema_owner = None, Missing::Schema),
            (|a| a.group_uses = false, Missing::Usage),
            (|a| a.group_reads = false, Missing::Reading),
            (|a| a.search_path = None, Missing::Path("alice, public".into())),
            (|a| a.limited = false, Missing::Limit),
        ];
        for (change, expected) in cases {
            let mut a = alice();
            change(&mut a);
            assert_eq!(missing(&a, "alice, public"), [expected]);
        }
        let mut a = alice();
        a.team = Some(Team { name: "growth".into(), schema: "growth".into(), member: false });
        assert_eq!(missing(&a, "alice, public"), [Missing::Team("growth".into()), Missing::TeamReading]);
    }

    #[test]
    fn a_private_schema_is_not_opened_again() {
        let mut a = alice();
        (a.private, a.group_uses, a.group_reads) = (true, false, false);
        assert_eq!(missing(&a, "alice, public"), []);
    }

    #[test]
    fn a_path_follows_new_schemas_unless_somebody_chose_it() {
        assert_eq!(missing(&alice(), "alice, app, public"), [Missing::Path("alice, app, public".into())]);
        let mut a = alice();
        a.search_path = Some("public".into());
        assert_eq!(missing(&a, "alice, app, public"), []);
    }

    #[test]
    fn a_path_names_each_schema_once() {
        let mut a = alice();
        let open = ["app".to_owned(), "public".into(), "growth".into()];
        assert_eq!(path(&a, &open, str::to_owned), "alice, app, public, growth");
        a.team = Some(Team { name: "growth".into(), schema: "growth".into(), member: true });
        assert_eq!(path(&a, &open[..1], str::to_owned), "alice, growth, app, public");
    }

    #[test]
    fn what_is_more_is_told() {
        let mut a = alice();
        a.attributes = vec!["SUPERUSER".into()];
        a.others = vec!["pg_read_all_data".into()];
        a.schema_owner = Some("bob".into());
        a.writes = vec![("INSERT".into(), "app.users".into())];
        a.creates_in = vec!["public".into()];
        assert_eq!(excess(&a).len(), 5);
        a.oid = 0;
        assert_eq!(excess(&a), []);
    }
}
