//! Parents that are read side by side, and what threads of one run share.

use super::*;

/// A stream with a listing for each parent, so many at a time.
fn notes(api: &FakeApi, parents: usize, at_a_time: usize) -> Order {
    for n in (0..parents).filter(|n| api.objects(&format!("of_{n}")).is_empty()) {
        fake_api::fill(api, &format!("of_{n}"), 3 + n as u64 % 4, 1);
    }
    let stream = with(
        cursor(),
        json!({"path": "cursor/of_{n}", "params": {"limit": 2}, "limits": {"concurrency": at_a_time},
            "parent": {"stream": "others", "bind": {"n": "/n"}}}),
    );
    let mut order = order(api, stream, json!({}));
    order.parents = Some((0..parents).map(|n| json!({"n": n}).as_object().unwrap().clone()).collect());
    order
}

/// What was told, without the progress, whose sums depend on who was faster.
fn told(order: Order) -> Vec<String> {
    let fetching = start(order).unwrap();
    let mut told = Vec::new();
    loop {
        match fetching.events.recv_timeout(Duration::from_secs(60)).expect("an event") {
            Event::Progress { .. } => {}
            event => {
                let text = format!("{event:?}");
                told.push(text);
                if matches!(event, Event::Finished(_) | Event::Failed(_)) {
                    return told;
                }
            }
        }
    }
}

#[test]
fn parents_side_by_side_are_told_as_if_they_were_read_one_after_another() {
    let api = FakeApi::http();
    let one = told(notes(&api, 23, 1));
    let requests = api.asked("/cursor");
    assert_eq!(one.iter().filter(|e| e.starts_with("ParentDone")).count(), 23);
    for at_a_time in [2, 5, 64] {
        api.forget();
        assert!(told(notes(&api, 23, at_a_time)) == one, "{at_a_time} at a time");
        assert_eq!(api.asked("/cursor"), requests);
    }
    let ran = run(notes(&api, 23, 5));
    assert_eq!(ran.requests as usize, requests, "all threads count");
}

#[test]
fn as_many_parents_are_asked_for_as_the_limit_says_and_no_more() {
    let api = FakeApi::http();
    api.fault("/cursor", 0, 99, Fault::Hang);
    let fetching = start(notes(&api, 9, 4)).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while api.asked("/cursor") < 4 {
        assert!(Instant::now() < until, "{} requests", api.asked("/cursor"));
        std::thread::yield_now();
    }
    let paths: BTreeSet<String> = api.log().into_iter().map(|a| a.path).collect();
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3].map(|n| format!("/cursor/of_{n}")));
    let began = Instant::now();
    drop(fetching);
    assert!(began.elapsed() < Duration::from_secs(1), "a cancel took {:?}", began.elapsed());
    assert_eq!(api.asked("/cursor"), 4);
}

#[test]
fn a_parent_that_fails_ends_the_run_after_all_before_it() {
    let api = FakeApi::http();
    let no = Fault::Reply(Reply::text(400, "text/plain", "no"));
    api.fault("/cursor/of_6", 0, 99, no);
    let ran = run(notes(&api, 12, 4));
    assert_eq!(ran.failure().sqlstate, "HV000");
    assert_eq!(ran.parents, (0..6).map(|n| (n, false)).collect::<Vec<_>>());
    assert_eq!(ran.records.len(), [3, 4, 5, 6, 3, 4].iter().sum::<usize>(), "what came of later ones is not told");
}

/// While a large listing is not taken, the other threads do not read on without end.
#[test]
fn what_is_read_ahead_is_bounded() {
    let api = FakeApi::http();
    let mut order = notes(&api, 40, 2);
    let text = "x".repeat(100_000);
    for n in 0..40 {
        api.change(|store| {
            let objects = (0..20).map(|i| json!({"id": format!("{n}_{i}"), "created": i, "text": text}));
            store.insert(format!("of_{n}"), objects.collect());
        });
    }
    let mut spec = Spec::clone(&order.spec);
    spec.streams[0].params.clear();
    order.spec = Arc::new(spec);
    let fetching = start(order).unwrap();
    // It is full once nothing more is asked for; how long that takes nobody can say, so it is looked at for a while.
    let (mut asked, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(700) {
        if api.asked("/cursor") != asked {
            (asked, since) = (api.asked("/cursor"), Instant::now());
        }
        std::thread::yield_now();
    }
    assert!(asked < 40, "{asked} pages of a MB were read for nobody");
    drop(fetching);
}

#[test]
fn threads_of_a_run_share_one_token() {
    let api = FakeApi::http();
    api.want_token(1000);
    api.rotate_refresh_tokens("sesame-open");
    let auth = json!({"auth": {"type": "oauth2", "token_url": api.url("/token"), "client_id": "me", "client_secret": "key",
        "grant": "refresh_token", "refresh_secret": "key"}});
    let mut many = notes(&api, 12, 6);
    let Order { spec, tokens, .. } = order(&api, cursor(), auth);
    let mut own = Spec::clone(&many.spec);
    own.auth = spec.auth.clone();
    (many.spec, many.tokens) = (Arc::new(own), tokens);
    let ran = run(many);
    ran.state();
    assert_eq!(ran.parents.len(), 12);
    assert_eq!(api.asked("/token"), 1);
}

#[test]
fn a_new_refresh_token_is_kept_before_its_token_is_used() {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 25, 1);
    api.want_token(1000);
    api.rotate_refresh_tokens("kept elsewhere");
    let auth = json!({"auth": {"type": "oauth2", "token_url": api.url("/token"), "client_id": "me", "client_secret": "key",
        "grant": "refresh_token", "refresh_secret": "key"}});
    for fails in [false, true] {
        let mut order = order(&api, cursor(), auth.clone());
        let (tokens, errands) = Tokens::new(&order.spec, &order.secrets).unwrap();
        order.tokens = tokens;
        api.forget();
        let fetching = start(order).unwrap();
        let next = || errands.recv_timeout(Duration::from_secs(60)).expect("an errand");
        // It is read where it is kept, whatever it was when the run began.
        let first = next();
        assert_eq!((first.name.as_str(), first.rotated.is_none()), ("key", true));
        let good = api.refresh_token();
        first.answer(Ok(Secret::new(good.clone())));
        let second = next();
        let (old, new) = second.rotated.clone().expect("a new one");
        assert_eq!((old.expose(), new.expose()), (good.as_str(), api.refresh_token().as_str()));
        assert_eq!(api.asked("/cursor"), 0, "its token was used before");
        match fails {
            false => second.answer(Ok(new)),
            true => second.answer(Err(Failure::new(code::INSUFFICIENT_RESOURCES, "no room for it"))),
        }
        let end = loop {
            match fetching.events.recv_timeout(Duration::from_secs(60)).expect("an event") {
                Event::Finished(_) => break None,
                Event::Failed(failure) => break Some(failure.message),
                _ => {}
            }
        };
        assert_eq!(end.as_deref(), fails.then_some("no room for it"));
        assert_eq!(api.asked("/cursor"), if fails { 0 } else { 3 });
    }
}
