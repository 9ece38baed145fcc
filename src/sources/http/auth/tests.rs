use super::*;
use ring::signature::{KeyPair, UnparsedPublicKey};

fn parts(token: &str) -> (Value, Value, String, Vec<u8>) {
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (json(header), json(claims), format!("{header}.{claims}"), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

#[test]
fn a_token_signed_with_a_shared_secret_verifies() {
    let claims = json!({"iss": "me", "aud": "https://api.example"});
    let token =
        sign(&Secret::new("sesame"), Algorithm::HS256, Some("k1"), claims.as_object().unwrap(), 300, now()).unwrap();
    let (header, claims, text, signature) = parts(&token);
    assert_eq!(header, json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}));
    assert_eq!(
        claims,
        json!({"iss": "me", "aud": "https://api.example", "iat": 1_700_000_000u64, "exp": 1_700_000_300u64})
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"sesame");
    hmac::verify(&key, text.as_bytes(), &signature).unwrap();
}

#[test]
fn a_token_signed_with_a_private_key_verifies_with_the_public_one() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = Secret::new(pair.serialize_pem());
    let (_, _, text, signature) = parts(&sign(&pem, Algorithm::ES256, None, &Map::new(), 60, now()).unwrap());
    UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, pair.public_key_raw())
        .verify(text.as_bytes(), &signature)
        .unwrap();
    // A key of 2048 bits made with openssl genpkey for this test, and used nowhere else.
    for pem in [include_str!("rsa_pkcs8.pem"), include_str!("rsa_pkcs1.pem")] {
        let (header, _, text, signature) =
            parts(&sign(&Secret::new(pem), Algorithm::RS256, None, &Map::new(), 60, now()).unwrap());
        assert_eq!(header["alg"], "RS256");
        let (_, der) = private_key(&Secret::new(include_str!("rsa_pkcs8.pem"))).unwrap();
        let public = signature::RsaKeyPair::from_pkcs8(&der).unwrap().public_key().as_ref().to_vec();
        UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, public)
            .verify(text.as_bytes(), &signature)
            .unwrap();
    }
}

#[test]
fn a_bad_key_is_refused_without_being_shown() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let e = sign(&Secret::new("sesame-no-pem"), algorithm, None, &Map::new(), 60, now()).unwrap_err();
        assert!(!format!("{e:?}").contains("sesame"), "{e:?}");
    }
}
