//! Planted code, and what it may not gain.
//!
//! Each planted function sounds a sequence, which no rollback silences, when anybody but its owner runs it, and then
//! tries to make its owner a superuser. The tests look at the sequence and at pg_authid, never at what the extension
//! says of itself.
#![allow(dead_code)] // Each test file uses a part of it.

use pg_test::{ClientExt, Pair};

pub const PRODUCT: &str = "
    CREATE TABLE users (id int PRIMARY KEY, email text, note text);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, note text);
    INSERT INTO users SELECT g, 'u' || g, 'n' FROM generate_series(1, 5) g;
    INSERT INTO orders SELECT g, g, 'n' FROM generate_series(1, 5) g";

/// `ran` counts that planted code ran at all; `alarm`, that it ran as somebody else.
pub const TRAP: &str = "
    CREATE SEQUENCE ana.ran; CREATE SEQUENCE ana.alarm;
    GRANT USAGE ON SCHEMA ana TO PUBLIC;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA ana TO PUBLIC;
    CREATE FUNCTION ana.evil(via text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM pg_catalog.nextval('ana.ran');
      BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
      BEGIN RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN NULL; END;
      BEGIN SET SESSION AUTHORIZATION postgres; EXCEPTION WHEN OTHERS THEN NULL; END;
      BEGIN SET ROLE postgres; EXCEPTION WHEN OTHERS THEN NULL; END;
      IF current_user OPERATOR(pg_catalog.<>) 'ana'::pg_catalog.name THEN
        PERFORM pg_catalog.nextval('ana.alarm');
        RAISE LOG 'planted code ran as % through %', current_user, via;
      END IF;
      BEGIN ALTER ROLE ana SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
      RETURN 1;
    END $$;
    -- Declared so that the planner folds it into a constant.
    CREATE FUNCTION ana.folded(via text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM ana.evil(via); RETURN 1; END $$;
    CREATE FUNCTION ana.folded(via text, of_what int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM ana.evil(via); RETURN of_what; END $$;
    -- The input of an array of it checks it, as early as the analysis of a text.
    CREATE DOMAIN ana.dom AS int CHECK (ana.folded('domain', VALUE) = VALUE)";

pub const ROLES: &str = "
    SELECT oid, rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin,
           (SELECT string_agg(roleid::text || admin_option, ',' ORDER BY roleid) FROM pg_auth_members WHERE member = a.oid)
    FROM pg_authid a ORDER BY oid";

/// A warehouse with the product's tables and the trap, before anything is planted.
pub fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(PRODUCT);
    pair.create_fdw();
    pair.warehouse_as("ana").exec(TRAP);
    pair
}

/// Looks, as the superuser but without touching anything of hers.
pub fn nothing_was_gained(pair: &Pair, roles: &str, when: &str) {
    let mut warehouse = pair.warehouse();
    warehouse.exec("SET search_path = pg_catalog");
    assert_eq!(warehouse.value("SELECT is_called FROM ana.alarm"), "f", "{when}: {}", said(pair));
    assert_eq!(warehouse.value("SELECT rolsuper FROM pg_authid WHERE rolname = 'ana'"), "f", "{when}");
    assert_eq!(warehouse.table(ROLES), roles, "{when}");
}

pub fn said(pair: &Pair) -> String {
    let log = pair.warehouse_cluster().log();
    let database = format!("@{} ", pair.warehouse_database());
    log.lines().filter(|l| l.contains("planted code") && l.contains(&database)).collect::<Vec<_>>().join("\n")
}

pub fn ran(pair: &Pair) -> u64 {
    pair.warehouse().value("SELECT last_value FROM ana.ran").parse().expect("a number")
}
