//! The rules: what secrets look like.

/// What one kind of secret looks like.
pub(super) struct Rule {
    /// Its name in the text and in findings.
    pub name: &'static str,
    /// One of these stands in the text, in any case, or the rule is not tried.
    pub words: &'static [&'static str],
    /// The secret is the group `secret`, or else the whole match.
    pub regex: &'static str,
    /// Least entropy of the secret, bits a character; 0 where its form says enough.
    pub entropy: f32,
}

const fn rule(name: &'static str, words: &'static [&'static str], regex: &'static str) -> Rule {
    Rule { name, words, regex, entropy: 0.0 }
}

/// In the order of precedence: what is more exact comes first.
pub(super) const RULES: &[Rule] = &[
    // What stands between the marks of a block, also with `\n` written out, as in JSON.
    rule(
        "private-key",
        &["PRIVATE KEY"],
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?P<secret>[A-Za-z0-9+/=\s\\\x22',:-]{40,}?)-----END",
    ),
    // The same where the end was cut off: lines of base64.
    rule(
        "private-key",
        &["PRIVATE KEY"],
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?P<secret>(?:(?:\s|\\[nr])*[A-Za-z0-9+/=]{30,})+(?:\s*[A-Za-z0-9+/]+={1,2})?)",
    ),
    rule("aws-access-key", &["AKIA", "ASIA", "ABIA", "ACCA"], r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"),
    Rule {
        name: "aws-secret-key",
        words: &["aws"],
        regex: r#"(?i)aws.{0,30}(?:secret|key).{0,20}?[=:,\s]\s*["'`]?(?P<secret>[A-Za-z0-9/+]{40})(?:["'`\s,;]|\z)"#,
        entropy: 4.0,
    },
    rule("gcp-api-key", &["AIza"], r"\bAIza[A-Za-z0-9_-]{35}"),
    rule("gcp-oauth-secret", &["GOCSPX-"], r"\bGOCSPX-[A-Za-z0-9_-]{28}"),
    rule("azure-storage-key", &["AccountKey="], r"(?i)AccountKey=(?P<secret>[A-Za-z0-9+/]{86}==)"),
    rule("azure-client-secret", &["Q~"], r"\b[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34}"),
    rule("azure-sas-signature", &["sig="], r"(?i)[?&]sig=(?P<secret>[A-Za-z0-9%+/]{43,60}(?:%3d|=))"),
    rule(
        "github-token",
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b",
    ),
    rule(
        "gitlab-token",
        &["glpat-", "glptt-", "gldt-", "glrt-", "glcbt-"],
        r"\bgl(?:pat|ptt|dt|rt|cbt)-[A-Za-z0-9_.-]{20,60}",
    ),
    rule(
        "slack-token",
        &["xox", "xapp-"],
        r"\b(?:xox[abeoprs]-[0-9A-Za-z-]{10,200}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{20,})",
    ),
    rule(
        "slack-webhook",
        &["hooks.slack.com"],
        r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<secret>[A-Za-z0-9+/]{40,80})",
    ),
    rule(
        "stripe-key",
        &["_live_", "_test_", "whsec_"],
        r"\b(?:(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,120}|whsec_[A-Za-z0-9+/=]{32,64})",
    ),
    rule("anthropic-key", &["sk-ant-"], r"\bsk-ant-[A-Za-z0-9_-]{24,200}"),
    rule("openrouter-key", &["sk-or-"], r"\bsk-or-(?:v\d-)?[A-Za-z0-9]{32,128}"),
    Rule {
        name: "openai-key",
        words: &["sk-"],
        regex: r"\bsk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{32,200}|[A-Za-z0-9]{20,64})\b",
        entropy: 3.5,
    },
    Rule { name: "huggingface-token", words: &["hf_"], regex: r"\bhf_[A-Za-z]{34}\b", entropy: 3.5 },
    rule("groq-key", &["gsk_"], r"\bgsk_[A-Za-z0-9]{48,60}\b"),
    rule("npm-token", &["npm_"], r"\bnpm_[A-Za-z0-9]{36}\b"),
    rule("npm-auth", &["_authToken"], r"_authToken\s*=\s*(?P<secret>[A-Za-z0-9._=/+-]{16,})"),
    rule("pypi-token", &["pypi-"], r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    Rule { name: "crates-token", words: &["cio"], regex: r"\bcio[A-Za-z0-9]{32}\b", entropy: 4.0 },
    rule("rubygems-token", &["rubygems_"], r"\brubygems_[a-f0-9]{48}\b"),
    rule("dockerhub-token", &["dckr_pat_"], r"\bdckr_pat_[A-Za-z0-9_-]{20,}"),
    rule("digitalocean-token", &["dop_v1_", "doo_v1_", "dor_v1_"], r"\bdo[por]_v1_[a-f0-9]{64}\b"),
    rule("sendgrid-key", &["SG."], r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    rule("vault-token", &["hvs.", "hvb."], r"\bhv[sb]\.[A-Za-z0-9_-]{24,300}"),
    rule("telegram-token", &[":AA"], r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b"),
    rule("twilio-key", &["SK"], r"\bSK[0-9a-f]{32}\b"),
    rule("jwt", &["eyJ"], r"\beyJ[A-Za-z0-9_-]{14,}\.eyJ[A-Za-z0-9_-]{14,}\.[A-Za-z0-9_-]{10,}"),
    Rule {
        name: "url-password",
        words: &["://"],
        regex: r#"\b[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/?#@"'`<>\[\]]{0,80}:(?P<secret>[^\s/@"'`<>]{3,200})@[A-Za-z0-9.\[_-]"#,
        entropy: 1.5,
    },
    Rule {
        name: "bearer-token",
        words: &["bearer"],
        regex: r"(?i)\bauthorization\b.{0,10}\bbearer\s+(?P<secret>[A-Za-z0-9._~+/-]{20,}=*)",
        entropy: 3.5,
    },
    // A telling name, then a literal. Quoted in code; unquoted only where a whole line is `NAME=value`.
    Rule {
        name: "assigned-secret",
        words: &["passw", "pwd", "secret", "token", "key", "credential"],
        regex: r#"(?i)[a-z0-9_.-]{0,40}(?:passwo?r?d|passwd|pwd|secret|token|api_?-?key|access_?-?key|private_?-?key|auth_?-?key|encryption_?-?key|credentials?)[a-z0-9_-]{0,20}["'\]]{0,2}\s*(?::\s*(?:&(?:'static\s+)?)?[a-z]{0,10}\s*)?(?:=>|:=|=|:|,)\s*[bfru]?["'`](?P<secret>[^"'`\s]{8,200})["'`]"#,
        entropy: 3.0,
    },
    Rule {
        name: "assigned-secret",
        words: &["passw", "pwd", "secret", "token", "key"],
        regex: r"(?im)^\s*(?:export\s+)?[A-Z0-9_]{0,40}(?:PASSWORD|PASSWD|PWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET_?KEY)=(?P<secret>[^\s#;()$`]{8,200})\s*$",
        entropy: 3.0,
    },
];

/// What stands for a secret in examples, lower case.
const PLACEHOLDERS: &[&str] = &[
    "example",
    "changeme",
    "change-me",
    "change_me",
    "your",
    "placeholder",
    "xxxx",
    "****",
    "....",
    "<",
    "redacted",
    "dummy",
    "secret_here",
    "insert",
    "todo",
    "sample",
    "not-a-",
    "not_a_",
    "${",
    "{{",
    "%(",
    "$(",
    "%s",
    "{}",
    "1234567",
    "abcdef",
    "foobar",
    "process.env",
    "os.environ",
    "getenv",
];

impl Rule {
    /// Whether a match is a secret, and not an example or a word.
    pub(super) fn holds(&self, secret: &str) -> bool {
        let lower = secret.to_ascii_lowercase();
        if self.entropy == 0.0 {
            return !lower.ends_with("example"); // as the keys in AWS's own pages do
        }
        if PLACEHOLDERS.iter().any(|word| lower.contains(word)) || secret.starts_with(['$', '{', '%', '/']) {
            return false;
        }
        // Behind a telling name, names and messages are more common than secrets: those have no digits, or
        // are words with marks between.
        let generic = self.name == "assigned-secret";
        !(generic && wordy(secret)) && entropy(secret) >= self.entropy
    }
}

/// Whether a text reads as a name: letters with `_`, `-`, `.`, `:` or `/` between, no digits and nothing else.
fn wordy(text: &str) -> bool {
    text.chars().all(|c| c.is_alphabetic() || "_-.:/\\ ,".contains(c))
}

/// Shannon entropy, bits a byte.
pub(super) fn entropy(text: &str) -> f32 {
    let mut counts = [0_u32; 256];
    for byte in text.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let total = text.len() as f32;
    counts.iter().filter(|count| **count > 0).map(|count| *count as f32 / total).map(|p| -p * p.log2()).sum()
}
