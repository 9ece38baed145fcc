//! The extension's arrival and departure.

use pg_test::{ClientExt, Cluster};

fn install_and_look(settings: &[(&str, &str)]) {
    let mut builder = Cluster::builder("extension");
    for (name, value) in settings {
        builder = builder.set(name, value);
    }
    let cluster = builder.start().expect("a cluster");
    let mut client = cluster.connect("postgres").expect("a connection");
    client.exec("CREATE EXTENSION startup_wh");
    assert_eq!(
        client.table(
            "SELECT e.extversion, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
             WHERE e.extname = 'startup_wh'"
        ),
        format!("{}|wh", env!("CARGO_PKG_VERSION"))
    );
    // The library answers.
    let refused = client.error("SELECT * FROM wh.recreate_fdw('nothing')");
    assert_ne!(refused.code().code(), "XX000", "{refused:?}");
    assert!(refused.hint().is_some(), "{refused:?}");
    // Of its insides an error says nothing, whatever the server's environment asks for.
    let error = client.error("SELECT wh.save_query('broken', 'SELECT * FROM nothing')");
    assert_eq!((error.code().code(), error.detail()), ("42P01", None));
    client.exec("DROP EXTENSION startup_wh");
}

#[test]
fn works_without_preloading() {
    install_and_look(&[]);
}

#[test]
fn works_preloaded() {
    install_and_look(&[("shared_preload_libraries", "startup_wh")]);
}
