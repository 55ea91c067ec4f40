use super::*;
use serde_json::json;

/// An encoder of words: each has a place of its own, and words of no weight have little.
struct Words;

impl Embed for Words {
    fn embed<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Vec<f32>, EmbedFailed>> {
        Box::pin(async move {
            if text.contains("unreadable") {
                return Err(EmbedFailed("no".into()));
            }
            let mut vector = vec![0.0; 512];
            for word in text.to_lowercase().split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
                let weight = if ["please", "a", "the", "do", "i"].contains(&word) { 0.1 } else { 1.0 };
                let mut hash = DefaultHasher::new();
                word.hash(&mut hash);
                vector[hash.finish() as usize % 512] += weight;
            }
            Ok(vector)
        })
    }
}

fn cache(settings: SemanticSettings) -> Arc<SemanticCache> {
    SemanticCache::new(settings, Arc::new(Words))
}

fn body(text: &str) -> Value {
    json!({"model": "m", "temperature": 0, "messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": text}]})
}

fn question_of(tenant: &str, body: &Value) -> Option<Question> {
    let plan = ["m".to_owned()];
    let asker = Asker { endpoint: Endpoint::Chat, tenant, plan: &plan };
    Question::of(asker, body.as_object().expect("an object"))
}

fn question(text: &str) -> Question {
    question_of("acme", &body(text)).expect("a question")
}

fn answer(text: &str) -> Arc<Answer> {
    let body = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": text},
        "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}});
    Answer::whole(Endpoint::Chat, 1, body).expect("whole")
}

async fn keep(cache: &Arc<SemanticCache>, question: Question, text: &str, now: Instant) {
    match cache.look(question, now).await.expect("a vector") {
        Look::Far(open) => open.keep(&answer(text), now),
        Look::Near { .. } => panic!("nothing is near"),
    }
}

async fn is_near(cache: &Arc<SemanticCache>, question: Question, now: Instant) -> bool {
    matches!(cache.look(question, now).await, Ok(Look::Near { .. }))
}

#[tokio::test]
async fn the_same_meaning_is_found_and_another_is_not() {
    let (cache, now) = (cache(SemanticSettings::default()), Instant::now());
    keep(&cache, question("How do I sort a list in Python?"), "sorted()", now).await;
    assert!(is_near(&cache, question("please, how do I sort the list in python"), now).await);
    assert!(!is_near(&cache, question("How do I reverse a list in Python?"), now).await);
    assert!(!is_near(&cache, question("How do I not sort a list in Python?"), now).await);
    assert_eq!(cache.counts(), Counts { hits: 1, followed: 0, misses: 3, kept: 1 });
}

#[tokio::test]
async fn numbers_names_and_quotes_must_be_the_same() {
    let now = Instant::now();
    let pairs = [
        ("open port 8080 on the host", "open port 8081 on the host"),
        ("what does read_all do", "what does read_any do"),
        ("explain readAll to me", "explain readAny to me"),
        ("what is \"left\" here", "what is \"right\" here"),
        ("what is `a b` here", "what is `b a` here"),
        ("add 'x' to it", "add 'y' to it"),
        ("does it work", "doesn't it work"),
        ("see src/main.rs please", "see src/lib.rs please"),
    ];
    for (one, other) in pairs {
        // Everything is near: the words alone decide.
        let cache = cache(SemanticSettings { threshold: -1.0, ..SemanticSettings::default() });
        keep(&cache, question(one), "a", now).await;
        assert!(is_near(&cache, question(&format!("please {one}?")), now).await, "{one}");
        assert!(!is_near(&cache, question(other), now).await, "{one} and {other}");
    }
}

#[tokio::test]
async fn nothing_is_shared_past_tenant_instructions_tools_format_and_sampling() {
    let (cache, now) = (cache(SemanticSettings::default()), Instant::now());
    let text = "how are lists sorted";
    keep(&cache, question(text), "so", now).await;
    assert!(is_near(&cache, question(text), now).await);
    let changes = [
        json!({"messages": [{"role": "system", "content": "long"}, {"role": "user", "content": text}]}),
        json!({"messages": [{"role": "user", "content": text}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"temperature": 0.5}),
        json!({"seed": 1}),
        json!({"max_tokens": 5}),
        json!({"model": "n"}),
    ];
    for change in changes {
        let mut body = body(text);
        body.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let other = question_of("acme", &body).expect("a question");
        assert!(!is_near(&cache, other, now).await, "{change}");
    }
    assert!(!is_near(&cache, question_of("other", &body(text)).expect("a question"), now).await);
}

#[test]
fn only_one_question_in_words_is_compared() {
    let with = |messages: Value| question_of("t", &json!({"messages": messages}));
    let part = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    assert_eq!(with(part).expect("a question").text(), "a\nb");
    for messages in [
        json!([]),
        json!("no"),
        json!([{"role": "user", "content": " "}]),
        json!([{"role": "user", "content": "x".repeat(1025)}]),
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]),
        json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        json!([{"role": "system", "content": "a"}]),
    ] {
        assert_eq!(with(messages.clone()), None, "{messages}");
    }
}

#[tokio::test]
async fn answers_expire_and_their_number_and_bytes_are_bounded() {
    let now = Instant::now();
    let minute = Duration::from_secs(60);
    let cache = cache(SemanticSettings { entries: 3, ttl: minute, ..SemanticSettings::default() });
    for text in ["alpha", "beta", "gamma", "delta"] {
        keep(&cache, question(text), "a", now).await;
    }
    assert_eq!(cache.size().0, 3);
    assert!(!is_near(&cache, question("alpha"), now).await, "the oldest went");
    assert!(is_near(&cache, question("delta"), now + minute / 2).await);
    assert!(!is_near(&cache, question("delta"), now + minute).await);
    keep(&cache, question("epsilon"), "a", now + minute).await;
    assert_eq!(cache.size().0, 1, "what has expired goes with the next that comes");

    let cache = self::cache(SemanticSettings { memory: 20_000, ..SemanticSettings::default() });
    for text in ["alpha", "beta", "gamma", "delta"] {
        keep(&cache, question(text), &"x".repeat(6000), now).await;
    }
    let (entries, bytes) = cache.size();
    assert!(entries == 2 && bytes <= 20_000, "{entries} entries, {bytes} bytes");
    keep(&cache, question("zeta"), &"x".repeat(30_000), now).await;
    assert_eq!(cache.size(), (0, 0), "larger than all there is");
}

#[tokio::test]
async fn a_failing_encoder_is_told() {
    let cache = cache(SemanticSettings::default());
    assert!(cache.look(question("unreadable"), Instant::now()).await.is_err());
    assert!(cache.look(question("..."), Instant::now()).await.is_err(), "a vector of zeros is near to nothing");
}
