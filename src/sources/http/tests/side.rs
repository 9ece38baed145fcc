//! What threads of one run share.

use super::*;

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
