//! Records coming out.

use std::time::Duration;

use engram_memory::backend::Selection;
use engram_memory::{Kind, MemoryConfig, Patch, Provenance, Query, Signals, Timestamp, Trust};

use crate::{Fixture, code, new, query, scope};

#[test]
fn literal_and_symbol_queries_find_their_exact_match_first() {
    let fixture = Fixture::new(MemoryConfig::default());
    for i in 0..30 {
        let text = format!("load config, config load {i}; calls load_configs and reload_config");
        fixture.remember(code(&format!("load_configs_{i}"), "src/other.rs", &text));
    }
    let wanted = fixture.remember(code("config::load_config", "src/config/load.rs", "a body of other words"));
    let note = fixture.remember(new(Kind::Document, "it says: connection reset by peer"));
    fixture.remember(new(Kind::Document, "peer connection: reset by the connection's peer"));
    let check = |text: &str, id| {
        let hits = fixture.search(&query(text)).hits;
        assert_eq!(hits[0].record.id, id, "{text}");
        assert!(hits[0].signals.literal.is_some() && hits[0].score > 0.5, "{text}");
        assert!(hits[1..].iter().all(|hit| hit.signals.literal.is_some() || hit.score <= 0.5), "{text}");
    };
    check("load_config", wanted);
    check("config::load_config", wanted);
    check("load_config()", wanted);
    check("src/config/load.rs", wanted);
    check("load.rs", wanted);
    check("\"connection reset by peer\"", note);
    fixture.memory.feedback(&scope().partition, wanted, false).unwrap();
    check("load_config", wanted);
}

#[test]
fn who_said_it_and_what_users_said_decide_between_equals() {
    let fixture = Fixture::new(MemoryConfig::default());
    let by = |trust, content: &str| {
        let mut record = new(Kind::Code, content);
        record.provenance = Provenance { trust, ..Provenance::default() };
        fixture.remember(record)
    };
    let model = by(Trust::Model, "retry policy x1");
    let user = by(Trust::User, "retry policy x2");
    let first = |text: &str| fixture.search(&query(text)).hits[0].record.id;
    assert_eq!(first("retry policy"), user);
    let hits = fixture.search(&query("retry policy")).hits;
    assert!(hits[0].signals.trust > hits[1].signals.trust && hits[1].signals.lexical.is_some());
    let partition = scope().partition;
    fixture.memory.feedback(&partition, user, false).unwrap();
    assert_eq!(first("retry policy"), model);
    (0..9).for_each(|_| drop(fixture.memory.feedback(&partition, user, true).unwrap()));
    fixture.memory.feedback(&partition, model, false).unwrap();
    assert_eq!(first("retry policy"), user);
}

#[test]
fn copies_do_not_crowd_the_hits() {
    let fixture = Fixture::new(MemoryConfig::default());
    for i in 0..5 {
        let copy = format!("open the store then replay the log then build the index then serve{}", " ".repeat(i));
        fixture.remember(code(&format!("s{i}"), "a.rs", &copy));
    }
    fixture.remember(code("other", "b.rs", "replay the log of the store after a crash"));
    let top = fixture.contents(&Query { k: 2, ..query("open the store and replay the log") });
    assert!(top.iter().any(|content| content.contains("after a crash")), "{top:?}");
}

#[test]
fn bounds_of_an_answer() {
    let fixture = Fixture::new(MemoryConfig::default());
    for words in [3, 40, 3, 3] {
        let index = fixture.memory.stats(None).unwrap().stored.vectors;
        fixture.remember(new(Kind::Code, &format!("alpha n{index} {}", "beta ".repeat(words))));
    }
    let count = |text: &str| text.split_whitespace().count();
    let asked = Query { budget_tokens: Some(11), ..query("alpha beta") };
    let hits = fixture.memory.search(&asked, Some(&count)).unwrap().hits;
    assert_eq!(hits.iter().map(|hit| hit.tokens.unwrap()).collect::<Vec<_>>(), [5, 5]);
    let all = fixture.search(&query("alpha beta")).hits;
    assert_eq!((all.len(), all[0].tokens), (4, None));
    let least = all[1].score;
    let hits = fixture.search(&Query { min_score: Some(least), ..query("alpha beta") }).hits;
    assert!(hits.len() >= 2 && hits.len() < 4 && hits.iter().all(|hit| hit.score >= least));
    let check = |change: &dyn Fn(&mut Query), expected: &str| {
        let mut asked = query("alpha");
        change(&mut asked);
        let error = fixture.memory.search(&asked, None).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check(&|q| q.text = " ".into(), "`query`: is empty: say what is looked for");
    check(&|q| q.text = "x".repeat(70_000), "query in bytes is 70000, the limit is 65536");
    check(&|q| q.k = 0, "`k`: is 0, from 1 to 200 hits may be asked for");
    check(&|q| q.k = 201, "`k`: is 201, from 1 to 200 hits may be asked for");
    check(&|q| q.min_score = Some(f32::NAN), "`min_score`: lies between 0 and 1");
    check(&|q| q.budget_tokens = Some(5), "`budget_tokens`: needs a model whose tokens are counted");
    let none = Signals { dense: false, lexical: false, literal: false };
    check(&|q| q.signals = none, "`signals`: none is asked: use dense, lexical or literal");
}

#[test]
fn the_past_is_read_as_it_stood() {
    let fixture = Fixture::new(MemoryConfig::default());
    let id = fixture.remember(new(Kind::Knowledge, "the timeout is thirty"));
    std::thread::sleep(Duration::from_millis(3));
    let then = Timestamp::now();
    std::thread::sleep(Duration::from_millis(3));
    let patch = Patch { content: Some("the timeout is sixty".into()), ..Patch::default() };
    fixture.memory.update(&scope().partition, id, patch).unwrap();
    fixture.remember(new(Kind::Knowledge, "a later timeout"));
    let past = Query { as_of: Some(then), ..query("timeout") };
    assert_eq!(fixture.contents(&past), ["the timeout is thirty"]);
    assert_eq!(fixture.contents(&query("timeout")).len(), 2);
    assert!(fixture.contents(&query("timeout")).contains(&"the timeout is sixty".to_owned()));
}

#[test]
fn the_self_check_measures_what_the_index_gives() {
    let fixture = Fixture::new(MemoryConfig::default());
    for i in 0..60 {
        fixture.remember(new(Kind::Code, &format!("fn f{i}() {{ g{}() }}", i % 7)));
    }
    let checked = fixture.memory.self_check(&Selection::all(scope()), 20, 5).unwrap();
    assert!(checked.sampled > 5 && checked.scanned == 60 && checked.recall == 1.0, "{checked:?}");
}
