package import Base
package import DeviceIO
import DiskFormat

/// The volume: requests in, replies out; device operations out, completions in. It reads no
/// clock, draws no random number and makes no system call, so the same engine runs under
/// io_uring and in the simulator.
///
///     submit ─► reading ─────────────────────────────► reply
///        ├────► placing ─┐
///        ├────► queued ─► staged in the log ──────────► reply
///        │                      └─ (durable) flushing ─► reply
///        └────► walking (block status) ───────────────► reply
///
///     step: admit queued writes · append · flush · batch (destage, moves, checkpoint)
///
/// | part | folder | what it owns |
/// |---|---|---|
/// | `Log` | Log | positions, ring, segments, generations |
/// | `ExtentTable` | ExtentTable | pages, directories, cache |
/// | `Allocator` | Allocation | slots |
/// | `Placed` | Placed | whole extents written straight to slots |
/// | `Batch` | Destage | the one writer of homes and pages; checkpoints |
/// | `MoveScan` | Moves | the walk that asks the policy |
///
/// Invariants (each part has its own; these hold between parts):
/// - V1: every request is answered exactly once; every operation is completed exactly once.
/// - V2: the highest position wins: the log's index is asked before the table.
/// - V3: clients change the log, never the table; the batch alone writes homes and pages.
/// - V4: no client waits for the batch, except for space.
/// - V5: what a read looked up stays readable until the read has ended (`ReadPins`).
package struct Volume: ~Copyable {
  private let anchor = Anchor()
  var superblock: Superblock
  let options: VolumeOptions
  let policy: any PlacementPolicy
  let staging: any StagingStore
  /// The staging ring in use; 0 for none.
  let ringID: UInt64
  package internal(set) var now: Instant
  /// Bytes of the volume: what both superblocks on disk say, so that no entry lies beyond.
  package internal(set) var size: UInt64
  /// What `grow` asks for.
  var wantedSize: UInt64 = 0

  var log: Log
  var table: ExtentTable
  var allocator: Allocator
  var batch: Batch
  var placed: Placed
  var scan = MoveScan()
  var waiters: WaiterLinks
  var orders: OperationQueue
  /// Operations ordered and not yet completed.
  var ordersInFlight = 0
  var flushes = [32 of DeviceFlush](repeating: DeviceFlush())
  var geometries: [DeviceGeometry]

  // Pools.
  let requests: UnsafeMutablePointer<RequestSlot>
  var freeRequests = WaiterList()
  var freeRequestCount = 0
  let pieces: UnsafeMutablePointer<ReadPiece>
  let pieceCRCs: UnsafeMutablePointer<UInt32>
  var firstFreePiece: Int32 = -1
  var pieceWaiters = WaiterList()
  /// Block statuses that go on in the next step, and look-ups that this one has left for them.
  var walkers = WaiterList()
  var lookupsLeft = 0
  let pages: UnsafeMutableRawPointer
  let pageLinks: UnsafeMutablePointer<Int32>
  var firstFreePage: Int32 = -1
  var freePageCount = 0
  var pageWaiters = WaiterList()
  /// Device offset of the piece that a read is building.
  var pieceOffset: UInt64 = 0
  var pins = ReadPins()
  let replies: UnsafeMutablePointer<VolumeReply>
  var replyHead = 0
  var replyTail = 0

  // Admission.
  var arrivals: Arrivals
  var queued = WaiterList()
  var flushing = WaiterList()
  var admission = Admission()
  var isDrainWanted = false

  var isStopping = false
  package internal(set) var isShutDown = false
  var counters = VolumeStatistics()
  var deviceCounters = [32 of DeviceStatistics](repeating: DeviceStatistics())
  var events = EventQueue()
  /// When a device last answered a read well: tells a bad sector from a device that is away.
  var lastSuccess = [32 of Instant](repeating: Instant(nanoseconds: 0))
  var lastRead = Instant(nanoseconds: 0)
  var lastWrite = Instant(nanoseconds: 0)
  var lastTick = Instant(nanoseconds: 0)

  // MARK: Entry points, in the order of data flow

  /// Whether a further request can be taken now.
  package var canAccept: Bool {
    freeRequestCount > 0 && replyTail &- replyHead < Pools.replies - Pools.requests && !isStopping
  }

  /// Takes a request. Its reply comes out of `nextReply`, perhaps at once.
  package mutating func submit(_ request: VolumeRequest) {
    invariant(freeRequestCount > 0, "V6: the server asked canAccept")
    guard let w = waiters.popFirst(&freeRequests) else { return }
    freeRequestCount -= 1
    let r = Int(w.rawValue)
    requests[r] = RequestSlot()
    requests[r].request = request
    switch request.kind {
    case .read: beginRead(r)
    case .write, .trim, .writeZeroes: arrive(r)
    case .flush: beginFlush(r)
    case .cache: beginCache(r)
    case .blockStatus: beginStatus(r)
    }
    runReady()
  }

  /// Takes the end of an operation.
  package mutating func complete(_ completion: DeviceCompletion) {
    let index = Token.index(completion.token)
    let detail = Token.detail(completion.token)
    let ok = completion.result >= 0
    ordersInFlight -= 1
    switch Token.kind(completion.token) {
    case .piece?: finishPiece(index, ok: ok)
    case .append?, .segmentHeader?: finishAppend(index, ok: ok)
    case .deviceFlush?: finishDeviceFlush(index, ok: ok)
    case .pageRead?: finishPageRead(FrameIndex(index), ok: ok)
    case .pageWrite?: finishBatchPageWrite(FrameIndex(index), ok: ok)
    case .jobRead?: finishJobRead(index, detail, ok: ok)
    case .jobWrite?: finishJobWrite(index, detail, ok: ok)
    case .footer?: finishFooter(ok: ok)
    case .superblock?: finishSuperblock(ok: ok)
    case .unitRead?: finishUnitRead(index, ok: ok)
    case .placed?: finishPlaced(index, detail, ok: ok)
    case .repair?: finishRepair(isWrite: index == 1, detail, ok: ok)
    case nil: invariant(false, "V1: a completion carries a token of ours")
    }
    runReady()
  }

  /// Does what is due. Called once a turn of the loop, after completions and submissions.
  package mutating func step(now: Instant) {
    if now > self.now { self.now = now }
    if !table.frameWaiters.isEmpty { waiters.wakeAll(&table.frameWaiters) }
    // As a rule the end of another piece wakes them; without one in flight, this does.
    if !pieceWaiters.isEmpty, ordersInFlight == 0 { waiters.wakeAll(&pieceWaiters) }
    pumpWalks()
    runReady()
    admission.renew(now: self.now, fullness: pressure, destageRate: batch.rate)
    pumpQueue()
    pumpRepair()
    pumpLog()
    pumpBatch()
    pumpScan()
    runReady()
    pumpLog()
    if isStopping { pumpShutdown() }
    runReady()
  }

  /// Folds what the log holds into homes and table soon, though it is not full.
  package mutating func drainSoon() { isDrainWanted = true }

  /// The next operation for the devices, nil when there is none.
  package mutating func nextOperation() -> DeviceOperation? { orders.pop() }

  /// The next reply, nil when there is none.
  package mutating func nextReply() -> VolumeReply? {
    guard replyHead != replyTail else { return nil }
    defer { replyHead &+= 1 }
    return replies[replyHead & (Pools.replies - 1)]
  }

  // MARK: What the parts share

  mutating func order(_ operation: DeviceOperation) {
    ordersInFlight += 1
    orders.push(operation)
  }

  /// Answers a request and frees its slot.
  mutating func reply(_ r: Int, _ result: RequestResult) {
    invariant(requests[r].pending == 0, "V1: a request is answered when its pieces have ended")
    releasePartial(r)
    if requests[r].placed != 0 { releasePlaced(r) }
    if arrivals.absent == Int32(r) { arrivals.absent = -1 }
    depart(r)
    replies[replyTail & (Pools.replies - 1)] = VolumeReply(
      cookie: requests[r].request.cookie, result: result,
      descriptorCount: requests[r].descriptors, errorOffset: requests[r].errorOffset)
    replyTail &+= 1
    requests[r].state = .free
    waiters.append(Waiter(rawValue: Int32(r)), to: &freeRequests)
    freeRequestCount += 1
  }

  /// Lets everyone go on whose wait has ended.
  mutating func runReady() {
    while let w = waiters.popReady() {
      let i = Int(w.rawValue)
      if i < Pools.requests {
        continueRequest(i)
      } else if w == Pools.sweepWaiter {
        pumpBatch()
      } else if w == Pools.scanWaiter {
        scan.isWaiting = false
      }
    }
  }

  private mutating func continueRequest(_ r: Int) {
    switch requests[r].state {
    case .reading:
      if requests[r].request.kind == .read { advanceRead(r) } else { advancePartial(r) }
    case .walking: advanceStatus(r)
    case .behind: begin(r)
    case .queued, .flushing, .placing, .free:
      invariant(false, "W1: only a request that waits is woken")
    }
  }

  /// Waits for a page, or for a frame to hold it.
  mutating func wait(_ w: Waiter, for frame: FrameIndex) {
    if frame >= 0 {
      waiters.push(w, onto: &table.cache[frame].waiters)
    } else {
      waiters.append(w, to: &table.frameWaiters)
    }
  }

  mutating func note(_ event: VolumeEvent) { events.push(event) }

  /// The next thing an operator should know, nil when there is none.
  package mutating func takeEvent() -> VolumeEvent? { events.pop() }
}
