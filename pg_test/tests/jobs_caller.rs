//! Whose a job is, where somebody's code makes it under their rights in another's session.

use pg_test::pair::password;
use pg_test::{ClientExt, Cluster};

#[test]
fn a_job_made_in_a_refresh_belongs_to_whose_code_made_it() {
    let cluster =
        Cluster::builder("jobs_caller").set("shared_preload_libraries", "startup_wh").start().expect("a cluster");
    let mut admin = cluster.connect("postgres").expect("a connection");
    admin.exec("CREATE EXTENSION startup_wh");
    for role in ["ana", "deploy"] {
        admin.exec(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{}'; CREATE SCHEMA {role} AUTHORIZATION {role}",
            password(role)
        ));
    }
    admin.exec("GRANT wh_analyst TO ana; GRANT wh_admin TO deploy");
    let mut ana = cluster.connect_as("postgres", "ana", &password("ana")).expect("a connection");
    ana.exec(
        "CREATE FUNCTION ana.plant() RETURNS bigint LANGUAGE sql VOLATILE
           AS $$ SELECT wh.schedule('planted', '1 second', 'ALTER ROLE ana SUPERUSER') $$;
         CREATE MATERIALIZED VIEW ana.trap AS SELECT ana.plant() AS planted WITH NO DATA",
    );
    admin.exec("REFRESH MATERIALIZED VIEW ana.trap");
    assert_eq!(admin.value("SELECT owner FROM wh.jobs WHERE name = 'planted'"), "ana");

    // What only a wh_admin may call is refused there.
    let mut deploy = cluster.connect_as("postgres", "deploy", &password("deploy")).expect("a connection");
    deploy.exec(
        "CREATE FUNCTION deploy.plant() RETURNS bigint LANGUAGE sql VOLATILE
           AS $$ SELECT count(*) FROM wh.create_fdw('x', 'postgresql://a:b@127.0.0.1/c?sslkey=/etc/passwd') $$;
         CREATE MATERIALIZED VIEW deploy.trap AS SELECT deploy.plant() AS planted WITH NO DATA",
    );
    let error = admin.error("REFRESH MATERIALIZED VIEW deploy.trap");
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.message().contains("security-restricted operation"), "{error:?}");
}
