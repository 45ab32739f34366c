import Base
import Glibc
import Rebalancing
import Testing

/// Replays recorded block traces through the policy and prints what it would have been worth:
/// the part of visits served by the fast tier, and bytes moved up per byte served from it.
///
/// The traces are not part of the repository: they are looked for in `../shared/traces` beside it,
/// or where THERMOCLINE_TRACES says. With THERMOCLINE_TRACE_MOVES=PREFIX the moves are written to
/// PREFIX-<trace>-<percent>.csv for the evaluator that lies with the traces.
@Suite struct TraceTests {
  struct Request {
    var microseconds: UInt64
    var isWrite: Bool
    var offset: UInt64
    var length: UInt64
  }

  private static var folder: String {
    if let path = getenv("THERMOCLINE_TRACES") { return String(cString: path) }
    let here = #filePath.split(separator: "/").dropLast(3)
    return "/" + here.joined(separator: "/") + "/../shared/traces"
  }

  private static func read(_ name: String) -> [Request]? {
    let path = folder + "/" + name + ".csv.gz"
    guard access(path, R_OK) == 0, let pipe = popen("gzip -dc '\(path)'", "r") else { return nil }
    defer { pclose(pipe) }
    var requests: [Request] = []
    var line = [CChar](repeating: 0, count: 256)
    while fgets(&line, 256, pipe) != nil {
      let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8($0) }, as: UTF8.self)
      let fields = text.dropLast().split(separator: ",")
      guard fields.count == 4, let time = UInt64(fields[0]), let offset = UInt64(fields[2]),
        let length = UInt64(fields[3])
      else { continue }
      requests.append(
        Request(microseconds: time, isWrite: fields[1] == "W", offset: offset, length: length))
    }
    return requests
  }

  @Test(
    arguments: ["cloudphysics-vm-2h", "workstation-p3-reads"], [5, 10, 25])
  func replay(trace: String, percent: Int) throws {
    guard let requests = Self.read(trace) else {
      print("trace \(trace): not there, not replayed")
      return
    }
    var replay = Replay(requests, percent: percent)
    let result = replay.run(requests)
    print(
      "trace \(trace), fast tier \(percent) %: visits served \(result.visitPerMille) ‰,"
        + " bytes moved per byte served \(result.movedPerThousandServed) / 1000,"
        + " moved \(result.movedBytes >> 20) MiB")
    #expect(result.peak <= replay.capacity)
    #expect(result.visitPerMille > 30)
    #expect(result.movedPerThousandServed < 1000)
    if let prefix = getenv("THERMOCLINE_TRACE_MOVES") {
      let path = "\(String(cString: prefix))-\(trace)-\(percent).csv"
      let file = try #require(fopen(path, "w"))
      for line in replay.log { fputs(line + "\n", file) }
      fclose(file)
    }
  }
}

/// One replay: extents numbered densely as the trace first touches them by address, all on the
/// slow tier at first; a walk over all of them every minute of the trace's time, every ten when
/// no moves are to be written (ten times quicker, a few visits less).
struct Replay {
  struct Result {
    var visitPerMille = 0
    var movedPerThousandServed = 0
    var movedBytes = 0
    var peak = 0
  }

  let capacity: Int
  var log: [String] = ["time_us,extent,to"]
  private var pool: ModelPool
  private var extents: [UInt64] = []
  private let period: UInt64 =
    getenv("THERMOCLINE_TRACE_MOVES") == nil ? 600_000_000 : 60_000_000

  init(_ requests: [TraceTests.Request], percent: Int) {
    var touched = Set<UInt64>()
    for request in requests where request.length > 0 {
      touched.formUnion(request.offset >> 16...(request.offset + request.length - 1) >> 16)
    }
    extents = touched.sorted()
    capacity = max(1, extents.count * percent / 100)
    // Only what the watermarks leave is used; the tier is made that much larger, so that it is
    // judged by what it may hold.
    let slots = capacity * 100 / 85
    // Heat is kept by address, as it is in the volume.
    let span = Int(extents.last!) + 1
    pool = ModelPool(extents: span, tierSlots: [UInt64(slots), UInt64(span) * 2]) {
      $0.driveWritesPerDay = Self.number("THERMOCLINE_TRACE_DWPD") ?? 0.3
      $0.lowPercent = 84
      $0.highPercent = 85
    }
    for extent in extents { pool.place(Int(extent), on: 1) }
  }

  private static func number(_ name: String) -> Double? {
    getenv(name).flatMap { Double(String(cString: $0)) }
  }

  mutating func run(_ requests: [TraceTests.Request]) -> Result {
    let start = pool.now.nanoseconds
    var lastAccess: [UInt64: UInt64] = [:]
    var visits = 0
    var hits = 0
    var served = 0
    var result = Result()
    var nextWalk = period
    for request in requests {
      while request.microseconds >= nextWalk {
        walk(at: nextWalk, start: start)
        result.peak = max(result.peak, Int(pool.tiers.usedSlots[0]))
        // Nothing happens in long pauses: skip to ten walks before the next request.
        nextWalk += period
        if request.microseconds > nextWalk + 20 * period {
          nextWalk = request.microseconds - 10 * period
        }
      }
      guard request.length > 0 else { continue }
      pool.now = Instant(nanoseconds: start + request.microseconds * 1000)
      let end = request.offset + request.length
      for extent in request.offset >> 16...(end - 1) >> 16 {
        let bytes = Int(min(end, (extent + 1) << 16) - max(request.offset, extent << 16))
        let isFast = pool.homes[Int(extent)] == 0
        let isVisit = lastAccess[extent].map { request.microseconds - $0 >= 10_000_000 } ?? true
        lastAccess[extent] = request.microseconds
        if isVisit { visits += 1 }
        if isFast {
          served += bytes
          if isVisit { hits += 1 }
        }
        pool.access(
          Int(extent), bytes: bytes, requestBytes: Int(request.length), isWrite: request.isWrite)
      }
    }
    result.visitPerMille = hits * 1000 / max(1, visits)
    result.movedBytes = pool.promotedBytes
    result.movedPerThousandServed = pool.promotedBytes * 1000 / max(1, served)
    return result
  }

  private mutating func walk(at microseconds: UInt64, start: UInt64) {
    pool.now = Instant(nanoseconds: start + microseconds * 1000)
    pool.advance(seconds: 0)
    let before = pool.moves.count
    pool.walk(extents)
    for move in pool.moves[before...] {
      log.append("\(microseconds),\(move.extent),\(move.to == 0 ? "fast" : "slow")")
    }
  }
}
