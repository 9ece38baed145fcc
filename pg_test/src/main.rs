//! What `make` calls: installing into the private server, and the suites that Postgres' own drivers run.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use pg_test::server::{self, Server};
use pg_test::{place, Client, Cluster, Profile, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["install"] => server::install(Profile::Debug),
        ["install", "--release"] => server::install(Profile::Release),
        ["regress", tests @ ..] => throw_away("regress", tests),
        ["isolation", tests @ ..] => throw_away("isolation", tests),
        ["installcheck", tests @ ..] => installcheck(tests),
        _ => Err("usage: pg_test install [--release] | regress | isolation | installcheck [TEST...]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pg_test: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The suites' two databases: a warehouse, and the product that it follows, which lies beside it.
const WAREHOUSE: &str = "wh_regress";
const PRODUCT: &str = "wh_regress_product";
const READER: &str = "wh_regress_product";

/// A suite in a cluster of its own.
fn throw_away(kind: &str, tests: &[&str]) -> Result<()> {
    let cluster = Cluster::builder(kind).start()?;
    let mut client = cluster.connect("postgres")?;
    prepare(&mut client, || cluster.connect(WAREHOUSE), "reader's secret", None)?;
    let driver = match kind {
        "isolation" => cluster.driver("isolation", "pg_isolation_regress")?,
        _ => cluster.driver("regress", "pg_regress")?,
    };
    run(driver, kind, tests)
}

/// The regression suites against a running server that PG* names and that has the extension's files. It must be
/// able to reach itself over TCP with a password. Databases and a role whose names begin with wh_regress come and
/// go.
fn installcheck(tests: &[&str]) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    if variable("PGHOST").is_none() && variable("PGPORT").is_none() {
        return Err("name the server: PGHOST, PGPORT, PGUSER, PGPASSWORD".into());
    }
    let host = variable("PGHOST").unwrap_or_else(|| "/var/run/postgresql".into());
    let port = variable("PGPORT").unwrap_or_else(|| "5432".into());
    let user = variable("PGUSER").unwrap_or_else(|| "postgres".into());
    let connect = |database: &str| -> Result<Client> {
        let mut config = postgres::Config::new();
        config.host(&host).port(port.parse()?).user(&user).dbname(database);
        if let Some(password) = variable("PGPASSWORD") {
            config.password(password);
        }
        Ok(config.connect(postgres::NoTls)?)
    };
    let mut client = connect("postgres")?;
    clean_up(&mut client)?;
    let random: String = client.query_one("SELECT pg_catalog.gen_random_uuid()::text", &[])?.get(0);
    let reach = if host.starts_with('/') { "127.0.0.1" } else { host.as_str() };
    prepare(&mut client, || connect(WAREHOUSE), &random, Some((reach, &port)))?;
    let origin = Server::of(&server::origin())?;
    let mut driver = Command::new(origin.test_driver("regress", "pg_regress"));
    driver
        .arg(format!("--bindir={}", origin.program("").display()))
        .env("PGHOST", &host)
        .env("PGPORT", &port)
        .env("PGUSER", &user);
    let ran = run(driver, "installcheck", tests);
    clean_up(&mut client)?;
    ran
}

fn clean_up(client: &mut Client) -> Result<()> {
    for database in [WAREHOUSE, PRODUCT] {
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
    }
    client.batch_execute(&format!("DROP ROLE IF EXISTS {READER}"))?;
    Ok(())
}

/// Makes what every suite may take as given: the two databases, the wrapper, `product_uri()`, which says how the
/// product is reached, and `product(statements)`, which runs some there and commits.
fn prepare(
    client: &mut Client,
    warehouse: impl FnOnce() -> Result<Client>,
    password: &str,
    reach: Option<(&str, &str)>,
) -> Result<()> {
    client.batch_execute(&format!("CREATE ROLE {READER} LOGIN PASSWORD '{}'", password.replace('\'', "''")))?;
    client.batch_execute(&format!("CREATE DATABASE {PRODUCT} OWNER {READER}"))?;
    client.batch_execute(&format!("CREATE DATABASE {WAREHOUSE}"))?;
    let port: String = client.query_one("SHOW port", &[])?.get(0);
    let (host, port) = reach.unwrap_or(("127.0.0.1", &port));
    let uri = format!(
        "postgresql://{READER}:{}@{}:{port}/{PRODUCT}",
        pg_test::cluster::percent(password),
        pg_test::cluster::percent(host)
    );
    warehouse()?.batch_execute(&format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE EXTENSION dblink;
         CREATE FUNCTION public.product_uri() RETURNS text LANGUAGE sql IMMUTABLE RETURN '{uri}';
         CREATE FUNCTION public.product(statements text) RETURNS void LANGUAGE plpgsql AS
         $$ BEGIN PERFORM public.dblink_exec(public.product_uri(), statements); END $$"
    ))?;
    Ok(())
}

fn run(mut driver: Command, kind: &str, tests: &[&str]) -> Result<()> {
    let (directory, extension) = match kind {
        "isolation" => ("specs", "spec"),
        _ => ("sql", "sql"),
    };
    let input = place::checkout().join("pg_test");
    let mut names: Vec<String> = tests.iter().map(|t| (*t).to_owned()).collect();
    if names.is_empty() {
        names = suites(&input.join(directory), extension)?;
    }
    // Drivers and psql run as Postgres' user, who may not see the checkout.
    let seen = place::base()?.join(format!("{kind}-input"));
    let output = place::base()?.join(kind);
    if seen.exists() {
        std::fs::remove_dir_all(&seen)?;
    }
    for part in [directory, "expected"] {
        copy_files(&input.join(part), &seen.join(part))?;
    }
    // The drivers stop at a suite that has no expected file yet; with an empty one it fails as others do.
    for name in &names {
        let expected = seen.join("expected").join(format!("{name}.out"));
        if !expected.exists() {
            std::fs::write(expected, "")?;
        }
    }
    if output.exists() {
        std::fs::remove_dir_all(&output)?;
    }
    place::own_directory(&output)?;
    let status = driver
        .arg("--use-existing")
        .arg(format!("--dbname={WAREHOUSE}"))
        .arg(format!("--inputdir={}", seen.display()))
        .arg(format!("--outputdir={}", output.display()))
        .args(&names)
        .status()?;
    if status.success() {
        return Ok(());
    }
    if let Ok(diff) = std::fs::read_to_string(output.join("regression.diffs")) {
        println!("{diff}");
    }
    Err(format!("{kind}: {status}; what came out lies in {}/results", output.display()).into())
}

fn suites(dir: &Path, extension: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(dir)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .filter_map(|p: PathBuf| Some(p.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("there is no suite in {}", dir.display()).into());
    }
    Ok(names)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
