//! Whose rights a job has, and who may see and touch it: as real roles over real connections.

use pg_test::{jobs, wait_until, ClientExt, JobsExt, Warehouse};

#[test]
fn a_run_is_its_owners_own_session() {
    let w = Warehouse::new("whose");
    let mut c = w.client();
    c.exec(
        "ALTER ROLE ana IN DATABASE whose SET search_path = ana; ALTER ROLE ana IN DATABASE whose SET work_mem = '7MB'",
    );
    let mut ana = w.as_role("ana");
    ana.exec("CREATE TABLE seen (su name, cu name, role text, path text, mem text, super text)");
    ana.schedule(
        "who",
        "INSERT INTO seen SELECT session_user, current_user, current_setting('role'), current_setting('search_path'), current_setting('work_mem'), current_setting('is_superuser')",
    );
    assert_eq!(ana.value("SELECT status FROM wh.run_job('who')"), "succeeded");
    assert_eq!(ana.table("SELECT * FROM seen"), "ana|ana|none|ana|7MB|off");
    // A role that she set owns what she schedules.
    let team = w.role("team");
    c.exec(&format!("GRANT {team} TO ana"));
    ana.exec(&format!("SET ROLE {team}"));
    ana.schedule("teams", "SELECT 1");
    assert_eq!(ana.value("SELECT owner FROM wh.jobs WHERE name = 'teams'"), team);
}

/// Every role hears every channel of a database, and sees every session's application_name.
#[test]
fn nobody_hears_what_anothers_job_is_called_or_said() {
    use postgres::fallible_iterator::FallibleIterator;
    let w = Warehouse::new("heard");
    let (mut ana, mut ben, mut holder) = (w.as_role("ana"), w.as_role("ben"), w.client());
    ben.exec("LISTEN wh_jobs");
    holder.exec("BEGIN; SELECT pg_advisory_xact_lock(3)");
    ana.schedule("acquisition", "SELECT pg_advisory_xact_lock(3); SELECT 'xyzzy'::int");
    ana.exec("SELECT wh.run_job('acquisition', wait => false)");
    ana.wait_for("acquisition", "running");
    let named = "SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'ana' AND application_name LIKE 'startup\\_wh: run %'";
    jobs::wait_for_true(&mut ben, named);
    let seen = ben.table("SELECT application_name FROM pg_stat_activity WHERE usename = 'ana'");
    assert!(!seen.contains("acquisition"), "{seen}");
    holder.exec("COMMIT");
    ana.wait_for("acquisition", "failed");
    let heard = ben
        .notifications()
        .timeout_iter(std::time::Duration::from_secs(30))
        .next()
        .expect("a connection")
        .expect("a notification");
    let run = ana.value("SELECT run FROM wh.job_runs");
    assert!(heard.payload().contains(&format!("\"run\":{run}")), "{}", heard.payload());
    for secret in ["acquisition", "xyzzy", "22P02"] {
        assert!(!heard.payload().contains(secret), "{}", heard.payload());
    }
    assert_eq!(ben.value(&format!("SELECT count(*) FROM wh.job_runs WHERE run = {run}")), "0");
    assert_eq!(
        ana.table(&format!("SELECT job_name, error FROM wh.job_runs WHERE run = {run}")),
        "acquisition|invalid input syntax for type integer: \"xyzzy\""
    );
}

#[test]
fn others_jobs_cannot_be_seen_nor_touched() {
    let w = Warehouse::new("private");
    let mut c = w.client();
    let mut ana = w.as_role("ana");
    ana.schedule("secret", "SELECT 'the secret', pg_advisory_xact_lock(3)");
    let mut holder = w.client();
    holder.exec("BEGIN; SELECT pg_advisory_xact_lock(3)");
    ana.exec("SELECT wh.run_job('secret', wait => false)");
    ana.wait_for("secret", "running");
    let before = c.table("SELECT * FROM wh.job");
    let mut ben = w.as_role("ben");
    for view in ["wh.jobs", "wh.job_runs", "wh.job_run_views", "wh.freshness", "wh.running_jobs()"] {
        assert_eq!(ben.value(&format!("SELECT count(*) FROM {view}")), "0", "{view}");
    }
    // A cheap function sees each row that the planner lets it see.
    ben.exec("CREATE FUNCTION ben.leak(text) RETURNS bool COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'leaked %', $1; END $$");
    for query in [
        "wh.jobs WHERE ben.leak(command)",
        "wh.job_runs WHERE ben.leak(command)",
        "wh.job_run_views WHERE ben.leak(job_name)",
    ] {
        assert_eq!(ben.value(&format!("SELECT count(*) FROM {query}")), "0", "{query}");
    }
    // What he is told of hers and of none is the same.
    for call in [
        "alter_job('NAME', schedule => '@daily')",
        "alter_job('NAME', command => 'SELECT 1')",
        "unschedule('NAME')",
        "run_job('NAME')",
        "run_job('NAME', wait => false)",
        "cancel_job('NAME')",
        "pause('NAME')",
        "resume('NAME')",
    ] {
        let of = |c: &mut postgres::Client, name: &str| {
            let e = c.error(&format!("SELECT wh.{}", call.replace("NAME", name)));
            (
                e.code().code().to_owned(),
                e.message().replace(name, "NAME"),
                e.detail().map(str::to_owned),
                e.hint().map(str::to_owned),
            )
        };
        let hers = of(&mut ben, "secret");
        assert_eq!(hers.0, "42704", "{call}");
        assert_eq!(hers, of(&mut ben, "none"), "{call}");
    }
    let taken = ben.error("SELECT wh.schedule('secret', '@daily', 'SELECT 1')");
    assert_eq!((taken.code().code(), taken.message()), ("42710", "job name \"secret\" is taken by another owner"));
    ben.schedule("bens", "SELECT 1");
    assert_eq!(ben.error("SELECT wh.alter_job('bens', new_name => 'secret')").code().code(), "42710");
    for role in ["postgres", "ana", "deploy", "wh_admin"] {
        assert_eq!(
            ben.error(&format!("SELECT wh.alter_job('bens', owner => '{role}')")).code().code(),
            "42501",
            "{role}"
        );
    }
    for table in ["job", "job_plan", "job_run", "job_step", "view_state", "promise_missed", "job_state"] {
        for mut role in [w.as_role("ben"), w.as_role("deploy")] {
            for statement in [
                format!("SELECT FROM wh.{table}"),
                format!("DELETE FROM wh.{table}"),
                format!("BEGIN; LOCK TABLE wh.{table} IN ACCESS SHARE MODE"),
            ] {
                assert_eq!(role.error(&statement).code().code(), "42501", "{statement}");
                role.exec("ROLLBACK");
            }
        }
    }
    assert_eq!(ben.error("SELECT wh.pause()").code().code(), "42501");
    assert_eq!(ben.error("SELECT wh.resume()").code().code(), "42501");
    assert_eq!(ben.error("SELECT wh.schedule_recreate_fdw('x', '@daily')").code().code(), "42501");
    assert_eq!(c.table("SELECT * FROM wh.job WHERE name = 'secret'"), before);
    assert_eq!(ana.value("SELECT status FROM wh.job_runs"), "running");
    holder.exec("COMMIT");
    ana.wait_for("secret", "succeeded");
    // A role with no role of ours may nothing.
    let mut nobody = {
        c.exec("CREATE ROLE private_nobody LOGIN PASSWORD 'private_nobody secret'");
        w.as_role("private_nobody")
    };
    assert_eq!(nobody.error("SELECT * FROM wh.jobs").code().code(), "42501");
    drop(nobody);
    c.exec("DROP ROLE private_nobody");
}

#[test]
fn whoever_may_not_see_a_job_does_not_wait_for_it() {
    let w = Warehouse::new("nowait");
    let mut ana = w.as_role("ana");
    ana.schedule("hers", "SELECT 1");
    ana.exec("BEGIN; SELECT wh.alter_job('hers', schedule => '@hourly')");
    let mut ben = w.as_role("ben");
    ben.exec("SET lock_timeout = '100ms'");
    assert_eq!(ben.error("SELECT wh.unschedule('hers')").code().code(), "42704");
    assert_eq!(ben.error("SELECT wh.schedule('hers', '@daily', 'SELECT 1')").code().code(), "42710");
    // Nor does he hold her up.
    ana.exec("COMMIT");
    ben.exec("BEGIN");
    ben.error("SELECT wh.pause('hers')");
    ana.exec("SET lock_timeout = '100ms'; SELECT wh.alter_job('hers', schedule => '@daily')");
}

#[test]
fn an_open_transaction_holds_up_nobodys_runs() {
    let w = Warehouse::new("openxact");
    let mut ana = w.as_role("ana");
    ana.exec("SELECT wh.schedule('hers', '1 second', 'SELECT 1')");
    let mut ben = w.as_role("ben");
    ben.exec("SELECT wh.schedule('his', '1 second', 'SELECT 1')");
    ana.exec("BEGIN; SELECT wh.alter_job('hers', timeout => '1 hour')");
    ben.exec("SELECT wh.schedule('another', '@daily', 'SELECT 1')");
    let runs = |c: &mut postgres::Client| {
        c.value("SELECT count(*) FROM wh.job_runs WHERE status = 'succeeded'").parse::<i64>().expect("a number")
    };
    let (hers, his) = (runs(&mut ana), runs(&mut ben));
    wait_until("both go on", || runs(&mut ana) > hers + 1 && runs(&mut ben) > his + 1);
    ana.exec("ROLLBACK");
}

#[test]
fn a_wh_admin_may_stop_others_jobs_but_not_change_what_they_do() {
    let w = Warehouse::new("admins");
    let mut ana = w.as_role("ana");
    ana.schedule("hers", "SELECT pg_sleep(600)");
    ana.schedule("quick", "CREATE TABLE IF NOT EXISTS ana.by_run AS SELECT current_user AS who");
    let mut deploy = w.as_role("deploy");
    for change in [
        "command => 'SELECT 1'",
        "owner => 'deploy'",
        "database => 'postgres'",
        "command => 'DROP TABLE x', schedule => '@daily'",
    ] {
        let refused = deploy.error(&format!("SELECT wh.alter_job('hers', {change})"));
        assert_eq!(refused.code().code(), "42501", "{change}");
        assert!(refused.detail().is_some() && refused.hint().is_some(), "{refused:?}");
    }
    assert_eq!(
        deploy.error("SELECT wh.schedule('hers', '@daily', 'SELECT 1')").message(),
        "job name \"hers\" is taken by ana"
    );
    deploy.exec("SELECT wh.alter_job('hers', schedule => '@hourly', timeout => '2 hours')");
    assert_eq!(
        deploy.table("SELECT owner, schedule, command FROM wh.jobs WHERE name = 'hers'"),
        "ana|hourly|SELECT pg_sleep(600)"
    );
    deploy.exec("SELECT wh.pause('hers'); SELECT wh.resume('hers'); SELECT wh.run_job('hers', wait => false)");
    deploy.wait_for("hers", "running");
    assert_eq!(deploy.value("SELECT wh.cancel_job('hers')"), "t");
    deploy.wait_for("hers", "cancelled");
    // Run by an admin it is still hers.
    assert_eq!(deploy.value("SELECT status FROM wh.run_job('quick')"), "succeeded");
    assert_eq!(
        ana.table("SELECT who, pg_get_userbyid(relowner) FROM ana.by_run, pg_class WHERE relname = 'by_run'"),
        "ana|ana"
    );
    assert_eq!(deploy.value("SELECT wh.unschedule('hers')"), "t");
    deploy.exec("SELECT wh.pause()");
    assert!(ana.value("SELECT reason FROM wh.jobs").starts_with("wh.pause() by \"deploy\""));
    deploy.exec("SELECT wh.resume()");
}

/// Between a command and the record of its success the runner is the extension's owner, a superuser. Whatever of the
/// command's could run then writes down as whom.
#[test]
fn a_command_cannot_use_the_moment_in_which_its_run_is_recorded() {
    let w = Warehouse::new("moment");
    let mut c = w.client();
    c.exec("CREATE TABLE public.trap (who name, how text); GRANT INSERT ON public.trap TO PUBLIC; GRANT CREATE ON DATABASE moment TO ana");
    let mut ana = w.as_role("ana");
    let spring = "INSERT INTO public.trap VALUES (current_user, TG_ARGV[0]); RETURN NULL;";
    ana.exec(&format!(
        "CREATE FUNCTION ana.spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {spring} END $$;
         CREATE FUNCTION ana.sprung(how text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.trap VALUES (current_user, how); RETURN 1; END $$;
         CREATE FUNCTION ana.eq(int, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.sprung('operator'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
         CREATE OPERATOR ana.= (LEFTARG = int, RIGHTARG = int, FUNCTION = ana.eq);
         CREATE FUNCTION ana.eq(bigint, bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.sprung('operator'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
         CREATE OPERATOR ana.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = ana.eq);
         CREATE FUNCTION ana.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.sprung('function'); RETURN pg_catalog.clock_timestamp(); END $$;
         CREATE TABLE ana.t (a int); CREATE CONSTRAINT TRIGGER late AFTER INSERT ON ana.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ana.spring('deferred')"
    ));
    let path = "SET search_path = ana, pg_catalog";
    for (name, command) in [
        ("path", format!("{path}; SELECT 1")),
        ("temp", "CREATE TEMP TABLE job_run (id int8); CREATE TEMP TABLE job_plan (job int8); CREATE FUNCTION pg_temp.spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.trap VALUES (current_user, 'temp'); RETURN NULL; END $$; CREATE TRIGGER x AFTER UPDATE ON pg_temp.job_run FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.spring(); SET search_path = pg_temp, ana".into()),
        ("deferred", format!("{path}; INSERT INTO ana.t VALUES (1)")),
        ("hold", "DECLARE c CURSOR WITH HOLD FOR SELECT ana.sprung('hold')".into()),
        ("prepared", "PREPARE p AS SELECT ana.sprung('prepared')".into()),
        ("failing", format!("{path}; INSERT INTO ana.t VALUES (1); SELECT 1 / 0")),
        ("literals", "SET standard_conforming_strings = off; SET transform_null_equals = on; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'Asia/Tokyo'; SET extra_float_digits = -10; SET enable_indexscan = off; SET row_security = off".into()),
        ("default", "SET default_tablespace = ''; SET default_table_access_method = heap; SET constraint_exclusion = off".into()),
    ] {
        ana.schedule(name, &command);
        let status = ana.value(&format!("SELECT status FROM wh.run_job('{name}')"));
        assert_eq!(status, if name == "failing" { "failed" } else { "succeeded" }, "{name}: {}", ana.last_run(name));
    }
    // The traps are real: those that run at commit did, as ana.
    assert_eq!(c.table("SELECT DISTINCT who, how FROM public.trap ORDER BY how"), "ana|deferred\nana|hold");
    assert_eq!(c.value("SELECT bool_and(finished BETWEEN started AND now() + '1 s' AND started > now() - interval '1 min') FROM wh.job_runs"), "t");
    // What an analyst must not do, a job of hers does not do either.
    for (name, command) in [
        ("auth", "SET SESSION AUTHORIZATION postgres"),
        ("role", "SET ROLE postgres"),
        ("replica", "SET session_replication_role = replica"),
        ("lock", "SELECT 1; LOCK TABLE wh.job"),
        ("table", "UPDATE wh.job SET owner = 'postgres'::regrole"),
        ("record", "SELECT wh.record_run('x')"),
        ("security", "ALTER FUNCTION wh.schedule(text, text, text, text, interval, int, interval, text, text, boolean) SECURITY INVOKER"),
        ("trigger", "CREATE TRIGGER t AFTER UPDATE ON wh.job_run FOR EACH ROW EXECUTE FUNCTION ana.spring('theirs')"),
        ("system", "ALTER SYSTEM SET work_mem = '1GB'"),
        ("program", "COPY ana.t FROM PROGRAM 'echo 1'"),
    ] {
        ana.schedule(name, command);
        assert_eq!(ana.value(&format!("SELECT status FROM wh.run_job('{name}')")), "failed", "{name}");
        assert!(["42501", "0LP01"].contains(&ana.value(&format!("SELECT sqlstate FROM wh.job_runs WHERE job_name = '{name}'")).as_str()), "{}", ana.last_run(name));
    }
    assert_eq!(c.value("SELECT count(*) FROM public.trap WHERE who <> 'ana'"), "0");
    ana.exec("DROP TABLE ana.t");
}

#[test]
fn an_owner_who_cannot_connect_is_told_so_in_the_run() {
    let w = Warehouse::new("locked");
    let mut c = w.client();
    let owner = w.role("owner");
    w.as_role(&owner).schedule("j", "SELECT 1");
    let run = |c: &mut postgres::Client| {
        c.exec("SELECT wh.run_job('j')");
        c.table("SELECT status, sqlstate, error, hint FROM wh.job_runs ORDER BY run DESC LIMIT 1")
    };
    assert_eq!(run(&mut c), "succeeded|||");
    c.exec(&format!("ALTER ROLE {owner} NOLOGIN"));
    assert_eq!(
        run(&mut c),
        format!("failed|28000|role \"{owner}\" is not permitted to log in|A job runs in a session of its owner: ALTER ROLE ... LOGIN, or wh.alter_job(..., owner => ...).")
    );
    c.exec(&format!("ALTER ROLE {owner} LOGIN VALID UNTIL '2020-01-01'"));
    assert_eq!(run(&mut c), format!("failed|28000|role \"{owner}\" was valid only until a time that is over|"));
    c.exec(&format!("ALTER ROLE {owner} VALID UNTIL 'infinity'; REVOKE CONNECT ON DATABASE locked FROM PUBLIC"));
    assert_eq!(
        run(&mut c),
        format!(
            "failed|42501|role \"{owner}\" may not connect to this database|GRANT CONNECT ON DATABASE ... TO {owner}"
        )
    );
    c.exec(&format!("GRANT CONNECT ON DATABASE locked TO {owner}"));
    assert_eq!(run(&mut c), "succeeded|||");
    // A job follows its owner's name, and survives what takes away all that the owner has.
    c.exec(&format!("DROP OWNED BY {owner}; GRANT CONNECT ON DATABASE locked TO {owner}; ALTER ROLE {owner} RENAME TO locked_renamed"));
    assert_eq!(run(&mut c), "succeeded|||");
    assert_eq!(c.value("SELECT owner FROM wh.jobs"), "locked_renamed");
    c.exec("DROP OWNED BY locked_renamed; DROP ROLE locked_renamed; CREATE ROLE locked_renamed LOGIN; GRANT wh_analyst TO locked_renamed");
    assert!(c.value("SELECT reason FROM wh.jobs WHERE NOT enabled AND next_run IS NULL").ends_with("was dropped"));
    // Not even by hand, and not as whoever has the name now.
    assert!(run(&mut c).starts_with("failed|42704|the job's owner, role "), "{}", run(&mut c));
    c.exec("SELECT wh.alter_job('j', owner => 'postgres')");
    assert_eq!(run(&mut c), "succeeded|||");
    assert_eq!(c.table("SELECT enabled, owner FROM wh.jobs"), "t|postgres");
    c.exec("DROP ROLE locked_renamed");
}

#[test]
fn a_job_runs_in_another_database_and_answers_in_full() {
    let w = Warehouse::new("here");
    let there = Warehouse::new("there");
    let mut c = w.client();
    there.client().exec("CREATE TABLE t (who name, at name); GRANT INSERT ON t TO ana");
    let mut ana = w.as_role("ana");
    let schedule = |c: &mut postgres::Client, name: &str, command: &str| {
        c.exec(&format!("SELECT wh.schedule('{name}', '@yearly', $job${command}$job$, database => 'there')"));
        c.value(&format!("SELECT status FROM wh.run_job('{name}')"))
    };
    assert_eq!(schedule(&mut ana, "away", "INSERT INTO t VALUES (session_user, current_database())"), "succeeded");
    assert_eq!(there.client().table("SELECT * FROM t"), "ana|there");
    assert_eq!(ana.table("SELECT status, rows, pid > 0, started <= finished FROM wh.job_runs"), "succeeded|1|t|t");
    let raise = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AB123', DETAIL = 'd', HINT = 'h'; END $$";
    assert_eq!(schedule(&mut ana, "raises", raise), "failed");
    assert_eq!(
        ana.table("SELECT status, sqlstate, error, detail, hint, context FROM wh.job_runs WHERE job_name = 'raises'"),
        "failed|AB123|no|d|h|PL/pgSQL function inline_code_block line 1 at RAISE"
    );
    assert_eq!(schedule(&mut ana, "vacuums", "VACUUM ana.x"), "failed");
    ana.exec(
        "SELECT wh.schedule('sleeps', '@yearly', 'SELECT pg_sleep(600)', database => 'there', timeout => '200 ms')",
    );
    assert_eq!(
        ana.table("SELECT status, error FROM wh.run_job('sleeps')"),
        "timed_out|canceled because it ran longer than its timeout"
    );
    // Refused when it is made, and recorded where it comes later.
    assert_eq!(
        ana.error("SELECT wh.schedule('no', '@yearly', 'SELECT 1', database => 'nowhere')").code().code(),
        "3D000"
    );
    c.exec("REVOKE CONNECT ON DATABASE there FROM PUBLIC");
    assert_eq!(
        ana.error("SELECT wh.schedule('no', '@yearly', 'SELECT 1', database => 'there')").code().code(),
        "42501"
    );
    assert_eq!(
        ana.table("SELECT status, error FROM wh.run_job('away')"),
        "failed|role \"ana\" may not connect to there"
    );
    c.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'there'");
    drop(there);
    assert_eq!(ana.table("SELECT status, error FROM wh.run_job('away')"), "failed|database \"there\" does not exist");
    assert_eq!(ana.value("SELECT count(*) FROM wh.jobs WHERE name = 'no'"), "0");
}
