//! How a graph is built and when it is.

/// Sizes of an index. Names as in HNSW's paper, <https://arxiv.org/abs/1603.09320>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexParams {
    /// Neighbours a point picks when it is inserted; the base layer keeps up to twice as many, by reverse links.
    pub m: usize,
    /// Candidates kept while a point looks for its neighbours.
    pub ef_construction: usize,
    /// Points that are only looked at exactly: below this many there is no graph, and new points wait beside
    /// the graph until they are this many.
    pub recent: usize,
    /// Where a filter lets fewer through than this, all of them are looked at and the graph is not.
    pub exact_below: usize,
    /// Threads that build.
    pub build_threads: usize,
}

impl Default for IndexParams {
    fn default() -> Self {
        Self {
            m: 16,
            ef_construction: 200,
            recent: 2048,
            exact_below: 4096,
            build_threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl IndexParams {
    /// The same within what a graph can be: m 4 to 128, ef_construction at least m, a thread at least.
    pub(crate) fn sane(self) -> Self {
        let m = self.m.clamp(4, 128);
        Self {
            m,
            ef_construction: self.ef_construction.clamp(m, 4096),
            recent: self.recent.max(64),
            exact_below: self.exact_below,
            build_threads: self.build_threads.clamp(1, 256),
        }
    }
}
