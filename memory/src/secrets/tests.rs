use super::rules::{RULES, entropy};
use super::*;

/// Keys are put together here, so that no scanner takes this file for a leak.
fn samples() -> Vec<(&'static str, String)> {
    let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let mixed = "q8Zr2LmXw5Tb9VnKc3Hd7Yp4Gj6Fs1AeRuQoMiWyBxNkEzUtDvPhCgLsJfOaIrSq8Zr2LmXw5Tb9VnKc3Hd7Yp4Gj6Fs";
    let body = format!("{}\n{}\n", &mixed[..64], &mixed[10..74]);
    vec![
        ("private-key", format!("-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----")),
        (
            "private-key",
            format!("key = \"-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----\"", &mixed[..80]),
        ),
        ("private-key", format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}")),
        ("aws-access-key", format!("id = AK{}", "IAQ3EGRT7WLM2PXN5V")),
        ("aws-secret-key", format!("aws_secret_access_key = {}", &mixed[..40])),
        ("gcp-api-key", format!("AI{}{}", "za", &mixed[..35])),
        ("gcp-oauth-secret", format!("GOCSP{}{}", "X-", &mixed[..28])),
        ("azure-storage-key", format!("AccountName=a;AccountKey={}==;", &mixed[..86])),
        ("azure-client-secret", format!("abc8{}{}", "Q~", &mixed[..34])),
        ("azure-sas-signature", format!("https://a.blob.core.windows.net/x?sv=1&sig={}%3D", &mixed[..43])),
        ("github-token", format!("gh{}{}", "p_", &mixed[..36])),
        ("github-token", format!("github_{}{}_{}", "pat_", &mixed[..22], &mixed[..59])),
        ("gitlab-token", format!("gl{}{}", "pat-", &mixed[..20])),
        ("slack-token", format!("xo{}123456789012-123456789012-{}", "xb-", &mixed[..24])),
        ("slack-webhook", format!("https://hooks.{}/services/T0000AAAA/B0000BBBB/{}", "slack.com", &mixed[..24])),
        ("stripe-key", format!("sk_{}{}", "live_", &mixed[..24])),
        ("anthropic-key", format!("sk-{}api03-{}", "ant-", &mixed[..90])),
        ("openai-key", format!("sk-{}{}", "proj-", &mixed[..48])),
        ("openai-key", format!("sk-{}", &mixed[..48])),
        ("huggingface-token", format!("hf_{}", "qZrLmXwTbVnKcHdYpGjFsAeRuQoMiWyBxN")),
        ("npm-token", format!("np{}{}", "m_", &mixed[..36])),
        ("npm-auth", format!("//registry.npmjs.org/:_authToken={}", &mixed[..36])),
        ("pypi-token", format!("pypi-{}{}", "AgE", &mixed[..70])),
        ("sendgrid-key", format!("S{}{}.{}", "G.", &mixed[..22], &mixed[..43])),
        ("digitalocean-token", format!("dop_{}{hex}", "v1_")),
        ("twilio-key", format!("S{}{}", "K", &hex[..32])),
        ("jwt", format!("ey{}{}.eyJ{}.{}", "J", &mixed[..20], &mixed[..30], &mixed[..43])),
        ("url-password", "postgres://app:tr0ub4dor&3@db.internal:5432/app".to_owned()),
        ("url-password", "redis://:hunter2Z@10.0.0.1/0".to_owned()),
        ("bearer-token", format!("-H 'Authorization: Bearer {}'", &mixed[..40])),
        ("assigned-secret", "password = \"tr0ub4dor&3x\"".to_owned()),
        ("assigned-secret", "{\"db_password\": \"k9#vQ2!mZp\"}".to_owned()),
        ("assigned-secret", format!("const API_KEY: &str = \"{}\";", &mixed[..32])),
        ("assigned-secret", format!("export SESSION_SECRET={}", &mixed[..32])),
        ("assigned-secret", format!("config['client_secret'] = '{}'", &mixed[..32])),
    ]
}

#[test]
fn secrets_go_and_their_lines_stay() {
    for (rule, text) in samples() {
        let text = format!("one\n{text}\nlast é");
        let redacted = redact(&text);
        assert_eq!(redacted.found.first().map(|found| found.rule), Some(rule), "{text}");
        assert!(redacted.text.contains(&format!("[redacted:{rule}]")), "{}", redacted.text);
        assert_eq!(redacted.found[0].line, 2, "{text}");
        assert_eq!(redacted.text.matches('\n').count(), text.matches('\n').count(), "{}", redacted.text);
        assert!(redacted.text.starts_with("one\n") && redacted.text.ends_with("\nlast é"), "{}", redacted.text);
        let long = |word: &&str| word.len() > 24 && entropy(word) > 4.0;
        let left = redacted.text.split(|c: char| !c.is_ascii_alphanumeric()).find(long);
        assert_eq!(left, None, "{}", redacted.text);
        assert_eq!(redact(&redacted.text).found, [], "{}: found again", redacted.text);
    }
}

#[test]
fn what_is_no_secret_stays() {
    let cases = [
        "sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"",
        "checksum = \"2c6a9f8b7e5d4c3b2a190807060504030201f0e0\"",
        "let id = \"7d444840-9dc0-11d1-b245-5ffdce74fad2\";",
        "password = os.environ[\"DB_PASSWORD\"]",
        "password = os.environ.get('DB_PASSWORD', '')",
        "const password = process.env.PASSWORD;",
        "let token = std::env::var(\"GITHUB_TOKEN\")?;",
        "password: \"your-password-here\"",
        "api_key = \"<your api key>\"",
        "API_KEY=${API_KEY}",
        "PASSWORD=changeme",
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
        "fn tokenize(token: &str) -> Token { self.token = next_token(); }",
        "let key = \"content-type\";",
        "token: \"TokenKind::Identifier\"",
        "assert_eq!(token, \"identifier\");",
        "{\"key\": \"models/qwen2/attention\"}",
        "postgres://localhost:5432/app",
        "https://example.com:8080/a@b",
        "postgres://user:${PASSWORD}@db/app",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
        "if line.starts_with(\"-----BEGIN RSA PRIVATE KEY-----\") {",
        "sk-learn and sk-simple-text-in-a-sentence",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    ];
    for text in cases {
        let redacted = redact(text);
        assert_eq!((redacted.text.as_ref(), redacted.found), (text, vec![]));
    }
}

#[test]
fn two_on_a_line_and_one_inside_another() {
    let key = format!("gh{}{}", "p_", "q8Zr2LmXw5Tb9VnKc3Hd7Yp4Gj6Fs1AeRuQo");
    let text = format!("a\ntoken = \"{key}\" # {key}\n\nurl = https://bot:{key}@github.com/a/b\n");
    let redacted = redact(&text);
    assert!(!redacted.text.contains(&key[4..]), "{}", redacted.text);
    let lines: Vec<u32> = redacted.found.iter().map(|found| found.line).collect();
    assert_eq!(lines, [2, 2, 4]);
    assert!(redacted.found.iter().all(|found| found.rule == "github-token"), "{:?}", redacted.found);
}

#[test]
fn every_rule_compiles_and_can_be_tried() {
    for rule in RULES {
        assert!(!rule.words.is_empty() && Regex::new(rule.regex).is_ok(), "{}", rule.name);
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_taken(text in "(?s).{0,200}", secret in proptest::sample::select(samples())) {
        let text = format!("{text}\n{}\n{text}", secret.1);
        let redacted = redact(&text);
        proptest::prop_assert_eq!(redacted.text.matches('\n').count(), text.matches('\n').count());
    }
}
