use super::*;
use crate::cache::Asker;
use serde_json::json;
use tokio::task::JoinHandle;

fn answer(text: &str) -> Arc<Answer> {
    let body = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": text},
        "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}});
    Answer::whole(Endpoint::Chat, 1, body).expect("whole")
}

fn key(number: u64) -> CacheKey {
    let body = json!({"seed": number});
    let asker = Asker { endpoint: Endpoint::Chat, tenant: "t", plan: &[] };
    CacheKey::of(asker, body.as_object().expect("an object"))
}

fn cache() -> Arc<ResponseCache> {
    ResponseCache::new(&CacheSettings::default())
}

async fn miss(cache: &Arc<ResponseCache>, number: u64) -> Recorder {
    match cache.ask(key(number), None).await.expect("no deadline") {
        Asked::Miss(recorder) => recorder,
        other => panic!("{other:?}"),
    }
}

fn follow(cache: &Arc<ResponseCache>, number: u64) -> JoinHandle<Result<Asked, WaitedTooLong>> {
    let cache = Arc::clone(cache);
    tokio::spawn(async move { cache.ask(key(number), None).await })
}

/// Until all tasks that can run have run.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn only_what_would_be_said_again_is_cacheable() {
    use Endpoint::{Chat, Completions, Embeddings};
    let table = [
        (Chat, json!({"temperature": 0}), true),
        (Chat, json!({"temperature": 0.0, "n": 8}), true),
        (Chat, json!({"seed": 0, "temperature": 0.7}), true),
        (Chat, json!({}), false),
        (Chat, json!({"temperature": 0.1}), false),
        (Chat, json!({"temperature": "0"}), false),
        (Chat, json!({"temperature": null, "seed": null}), false),
        (Chat, json!({"temperature": 0, "n": 9}), false),
        (Chat, json!({"temperature": 0, "memory": {}}), false),
        (Chat, json!({"temperature": 0, "memory": null}), true),
        (Completions, json!({"temperature": 0, "n": 2, "prompt": ["a", "b", "c", "d"]}), true),
        (Completions, json!({"temperature": 0, "n": 3, "prompt": ["a", "b", "c"]}), false),
        (Completions, json!({"temperature": 0, "prompt": [1, 2, 3, 4, 5, 6, 7, 8, 9]}), true),
        (Embeddings, json!({"input": "a"}), true),
        (Embeddings, json!({"input": vec!["a"; 65]}), false),
    ];
    for (endpoint, body, expected) in table {
        assert_eq!(cacheable(endpoint, body.as_object().expect("an object")), expected, "{body}");
    }
}

#[tokio::test]
async fn an_answer_is_found_again_and_expires() {
    let cache = ResponseCache::new(&CacheSettings { ttl: Duration::from_millis(80), ..CacheSettings::default() });
    let said = answer("yes");
    miss(&cache, 1).await.complete(&said);
    let Ok(Asked::Hit(found)) = cache.ask(key(1), None).await else { panic!("kept") };
    assert!(Arc::ptr_eq(&found, &said));
    drop(miss(&cache, 2).await);
    tokio::time::sleep(Duration::from_millis(120)).await;
    drop(miss(&cache, 1).await);
    assert_eq!(cache.counts(), Counts { hits: 1, followed: 0, misses: 3, kept: 1 });
    assert_eq!((cache.size().0, cache.under_way()), (0, 0));
}

#[tokio::test]
async fn memory_is_bounded() {
    let cache = ResponseCache::new(&CacheSettings { memory: 100_000, largest: 20_000, ..CacheSettings::default() });
    for number in 0..100 {
        miss(&cache, number).await.complete(&answer(&"x".repeat(5000)));
    }
    let (kept, bytes) = cache.size();
    assert!((10..20).contains(&kept) && bytes <= 100_000, "{kept} answers, {bytes} bytes");
    miss(&cache, 200).await.complete(&answer(&"x".repeat(20_000)));
    drop(miss(&cache, 200).await);
    assert_eq!(cache.counts().kept, 100);
}

#[tokio::test]
async fn what_is_not_whole_is_not_kept() {
    let cache = cache();
    let cut = json!({"choices": [{"index": 0, "message": {"content": "ye"}, "finish_reason": null}], "usage": {}});
    let error = miss(&cache, 1).await.complete_body(Endpoint::Chat, 1, cut).expect_err("cut");
    assert_eq!(error, Incomplete::Unfinished(0));
    drop(miss(&cache, 1).await);
    assert_eq!(cache.counts().kept, 0);
}

#[tokio::test]
async fn equal_requests_are_answered_once() {
    let cache = cache();
    let leader = miss(&cache, 1).await;
    let followers: Vec<_> = (0..50).map(|_| follow(&cache, 1)).collect();
    let other = follow(&cache, 2);
    settle().await;
    assert!(followers.iter().all(|follower| !follower.is_finished()));
    assert!(matches!(other.await, Ok(Ok(Asked::Miss(_)))), "another question waits for nobody");
    let said = answer("yes");
    leader.complete(&said);
    for follower in followers {
        let Ok(Ok(Asked::Followed(heard))) = follower.await else { panic!("an answer") };
        assert!(Arc::ptr_eq(&heard, &said));
    }
    assert_eq!((cache.counts().followed, cache.under_way()), (50, 0));
}

#[tokio::test]
async fn an_answer_too_large_to_keep_still_lands() {
    let cache = ResponseCache::new(&CacheSettings { largest: 10, ..CacheSettings::default() });
    let leader = miss(&cache, 1).await;
    let follower = follow(&cache, 1);
    settle().await;
    leader.complete(&answer("yes"));
    assert!(matches!(follower.await, Ok(Ok(Asked::Followed(_)))));
}

#[tokio::test]
async fn a_leader_that_leaves_is_followed_by_one() {
    let cache = cache();
    let leader = miss(&cache, 1).await;
    let mut followers: Vec<_> = (0..20).map(|_| follow(&cache, 1)).collect();
    settle().await;
    drop(leader);
    settle().await;
    let leads = followers.iter().position(JoinHandle::is_finished).expect("one leads now");
    assert_eq!(followers.iter().filter(|follower| follower.is_finished()).count(), 1);
    let Ok(Ok(Asked::Miss(second))) = followers.swap_remove(leads).await else { panic!("the next leader") };
    // A follower that leaves is missed by nobody.
    followers.swap_remove(0).abort();
    second.complete(&answer("yes"));
    for follower in followers {
        match follower.await {
            Ok(asked) => assert!(matches!(asked, Ok(Asked::Followed(_)))),
            Err(error) => assert!(error.is_cancelled()),
        }
    }
    assert_eq!(cache.under_way(), 0);
}

#[tokio::test]
async fn after_three_failures_each_asks_for_itself() {
    let cache = cache();
    let mut leader = miss(&cache, 1).await;
    let mut followers: Vec<_> = (0..10).map(|_| follow(&cache, 1)).collect();
    for _ in 0..2 {
        settle().await;
        drop(leader);
        settle().await;
        let leads = followers.iter().position(JoinHandle::is_finished).expect("one leads now");
        let Ok(Ok(Asked::Miss(next))) = followers.swap_remove(leads).await else { panic!("the next leader") };
        leader = next;
    }
    drop(leader);
    for follower in followers {
        assert!(matches!(follower.await, Ok(Ok(Asked::Miss(_)))));
    }
    assert_eq!(cache.under_way(), 0);
}

#[tokio::test]
async fn a_followers_own_deadline_holds() {
    let cache = cache();
    let leader = miss(&cache, 1).await;
    let before = Instant::now();
    let waited = cache.ask(key(1), Some(before + Duration::from_millis(50))).await;
    assert_eq!(waited.err(), Some(WaitedTooLong));
    assert!(before.elapsed() >= Duration::from_millis(50));
    leader.complete(&answer("yes"));
    assert!(matches!(cache.ask(key(1), Some(before)).await, Ok(Asked::Hit(_))), "what is there needs no time");
}

/// Leaders that answer, fail and are cut off, on several threads: everybody ends, and nothing stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_hangs() {
    let cache = cache();
    let tasks: Vec<_> = (0..2000u64)
        .map(|task| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let Ok(Asked::Miss(recorder)) = cache.ask(key(task % 40), None).await else { return };
                tokio::task::yield_now().await;
                match task % 5 {
                    0 => recorder.complete(&answer("yes")),
                    1 => panic!("a leader that dies"),
                    2 => tokio::time::sleep(Duration::from_millis(task % 7)).await,
                    _ => drop(recorder),
                }
            })
        })
        .collect();
    tasks.iter().step_by(11).for_each(JoinHandle::abort);
    let ended = tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(tasks)).await;
    assert_eq!(ended.expect("all ended").len(), 2000);
    assert_eq!(cache.under_way(), 0);
}
