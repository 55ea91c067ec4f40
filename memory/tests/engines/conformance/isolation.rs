//! Nothing of one partition is seen, counted or weighed in another.

use engram_memory::backend::{Backend, Change, Forget, Selection};
use engram_memory::{MemoryError, Scope};

use super::{put, scope, stored, vector};

pub fn partitions_do_not_see_each_other(backend: &dyn Backend) {
    let here = scope();
    let tenant = here.partition.tenant.as_str();
    let others = [
        Scope::of(tenant, "business").unwrap(),
        Scope::of(&tenant.to_uppercase(), "coding").unwrap(),
        Scope::of(&format!("{tenant}c"), "oding").unwrap(),
        Scope::of(&format!("{tenant} "), "coding").unwrap(),
        scope(),
    ];
    let content = "fn secret_of_mine() {}";
    let mut mine = stored(&here, content);
    mine.record.provenance.symbol = Some("secret_of_mine".into());
    let mine = put(backend, mine);
    for other in &others {
        let all = Selection::all(other.clone());
        assert_eq!(backend.scan(&all, None, None, 9).unwrap(), []);
        assert_eq!(backend.nearest(&all, &vector(0, 0.0), 9).unwrap(), []);
        assert_eq!(backend.lexical(&all, content, 9).unwrap(), []);
        assert_eq!(backend.literal(&all, "secret_of_mine", 9).unwrap(), []);
        let partition = &other.partition;
        assert_eq!(backend.get(partition, mine.id, None).unwrap(), None);
        assert_eq!(backend.get(partition, mine.id, Some(engram_memory::Timestamp::now())).unwrap(), None);
        assert_eq!(backend.get_many(partition, &[mine.id]).unwrap(), []);
        assert!(matches!(backend.change(partition, mine.id, Change::default()), Err(MemoryError::NotFound(_))));
        assert_eq!(backend.forget(&Forget::Ids(partition.clone(), vec![mine.id])).unwrap(), 0);
        assert_eq!(backend.forget(&Forget::Matching(all)).unwrap(), 0);
        assert_eq!(backend.stats(Some(partition)).unwrap().records.values().sum::<u64>(), 0);
    }
    assert_eq!(backend.get(&here.partition, mine.id, None).unwrap(), Some(mine));
}

/// A score must not tell how often a word occurs elsewhere.
pub fn statistics_do_not_cross(backend: &dyn Backend) {
    let (here, other) = (scope(), scope());
    put(backend, stored(&here, "a quokka in the code"));
    put(backend, stored(&here, "something else in the code"));
    let search = || backend.lexical(&Selection::all(here.clone()), "quokka", 9).unwrap();
    let before = search();
    assert_eq!(before.len(), 1);
    for i in 0..30 {
        put(backend, stored(&other, &format!("quokka quokka quokka {i}")));
    }
    assert_eq!(search(), before);
}
