import Glibc
import Simulator
import VolumeEngine

/// Shares seeds among worker processes, reads what they say, replaces those that die.
struct Runner {
  let jobs: Int
  let first: UInt64
  let seeds: Int
  let failures: Int
  let tail: Int
  let timeLimit: Int?
  let planted: PlantedBug?
  let kind: Worker.Kind
  /// Print no failures.
  var isQuiet = false

  private(set) var ended = 0
  private(set) var failed = 0
  /// The last line of the first failure.
  private(set) var firstFailure = ""
  private var totals = [Int](repeating: 0, count: 11)
  private let began = Runner.seconds()
  private var lastProgress = 0.0
  private let isTerminal = isatty(2) == 1

  private struct Process {
    var pid: pid_t
    var input: Int32
    var buffer: [UInt8] = []
    /// The seed it is in, and what it has said about it.
    var seed: UInt64?
    var said: [String] = []
    var nextSeed: UInt64
  }
  private var processes: [Process] = []

  init(
    _ kind: Worker.Kind, jobs: Int, first: UInt64, seeds: Int, failures: Int, tail: Int,
    timeLimit: Int?, planted: PlantedBug?
  ) {
    self.kind = kind
    self.jobs = min(jobs, seeds)
    self.first = first
    self.seeds = seeds
    self.failures = failures
    self.tail = tail
    self.timeLimit = timeLimit
    self.planted = planted
  }

  private static func seconds() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Double(t.tv_sec) + Double(t.tv_nsec) / 1e9
  }

  private var isOver: Bool {
    if failed >= failures { return true }
    guard let timeLimit else { return false }
    return Runner.seconds() - began >= Double(timeLimit)
  }

  mutating func run() {
    for i in 0..<jobs { start(first &+ UInt64(i)) }
    while !processes.isEmpty && !isOver {
      var waits = processes.map { pollfd(fd: $0.input, events: Int16(POLLIN), revents: 0) }
      poll(&waits, nfds_t(waits.count), 500)
      for i in waits.indices.reversed() where waits[i].revents != 0 { listen(to: i) }
      showProgress()
    }
    for process in processes {
      kill(process.pid, SIGKILL)
      waitpid(process.pid, nil, 0)
      close(process.input)
    }
    processes.removeAll()
    if isTerminal { print("\r\u{1b}[K", terminator: "") }
    fflush(nil)
  }

  // MARK: Processes

  private mutating func start(_ seed: UInt64) {
    let step = UInt64(jobs)
    guard seed < first &+ UInt64(seeds) else { return }
    let count = (first &+ UInt64(seeds) &- seed &+ step &- 1) / step
    var arguments = [
      "thermocline-simulate", "--worker", "--first-seed", "\(seed)", "--seeds", "\(count)",
      "--stride", "\(step)", "--tail", "\(tail)",
    ]
    if kind != .seeds { arguments.append("--\(kind)") }
    if let planted { arguments += ["--planted", planted.rawValue] }
    var ends: [Int32] = [0, 0]
    pipe(&ends)
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
    var environment: [UnsafeMutablePointer<CChar>?] = [
      strdup("SWIFT_BACKTRACE=enable=no"), nil,
    ]
    var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    var pid: pid_t = 0
    let status = posix_spawn(&pid, "/proc/self/exe", &actions, nil, &argv, &environment)
    posix_spawn_file_actions_destroy(&actions)
    for pointer in argv { free(pointer) }
    for pointer in environment { free(pointer) }
    close(ends[1])
    guard status == 0 else {
      print("A worker cannot be started: \(String(cString: strerror(status))).")
      failed += failures
      close(ends[0])
      return
    }
    processes.append(Process(pid: pid, input: ends[0], nextSeed: seed))
  }

  /// Reads what a worker says; replaces it when it is gone.
  private mutating func listen(to i: Int) {
    var bytes = [UInt8](repeating: 0, count: 1 << 16)
    let count = read(processes[i].input, &bytes, bytes.count)
    if count > 0 {
      processes[i].buffer += bytes[0..<count]
      while let end = processes[i].buffer.firstIndex(of: 10) {
        let line = String(decoding: processes[i].buffer[0..<end], as: UTF8.self)
        processes[i].buffer.removeSubrange(0...end)
        hear(line, from: i)
      }
      return
    }
    let process = processes.remove(at: i)
    close(process.input)
    var status: Int32 = 0
    waitpid(process.pid, &status, 0)
    guard let seed = process.seed else {
      if status != 0 { fail(process.nextSeed, process.said + ["The worker ended at once."]) }
      return
    }
    let signal = status & 0x7f
    let end = signal != 0 ? "of signal \(signal)" : "with status \(status >> 8)"
    fail(seed, (kind != .seeds ? [] : [Scenario(seed: seed).summary]) + process.said
      + ["The worker died \(end)."])
    if !isOver { start(seed &+ UInt64(jobs)) }
  }

  private mutating func hear(_ line: String, from i: Int) {
    let words = line.split(separator: " ")
    switch words.first {
    case "@begin":
      processes[i].seed = UInt64(words[1])
      processes[i].said = []
    case "@pass":
      processes[i].seed = nil
      ended += 1
      for (j, word) in words.dropFirst(2).enumerated() { totals[j] += Int(word) ?? 0 }
    case "@fail":
      if let seed = processes[i].seed { fail(seed, processes[i].said) }
      processes[i].seed = nil
    default:
      processes[i].said.append(line)
    }
  }

  // MARK: Words

  private mutating func fail(_ seed: UInt64, _ said: [String]) {
    ended += 1
    failed += 1
    let cause =
      said.last {
        $0.hasPrefix("invariant violated") || $0.contains("Fatal error")
          || $0.hasPrefix("The seed takes")
      }
      ?? said.last ?? "(nothing was said)"
    if failed == 1 { firstFailure = "seed \(seed): \(cause)" }
    if isQuiet { return }
    if isTerminal { print("\r\u{1b}[K", terminator: "") }
    for line in said { print(line) }
    let bug = (kind == .seeds ? "" : " --\(kind)") + (planted.map { " --planted \($0)" } ?? "")
    print("Seed \(seed) failed: \(cause)")
    print("Replay: swift run -c release thermocline-simulate --seed \(seed)\(bug)\n")
    fflush(nil)
  }

  private mutating func showProgress() {
    let now = Runner.seconds()
    guard isTerminal, now - lastProgress > 0.5 else { return }
    lastProgress = now
    let text = "\r\u{1b}[K\(ended) of \(seeds) seeds, \(failed) failed"
    _ = text.withCString { write(2, $0, strlen($0)) }
  }

  /// The run in one paragraph.
  var summary: String {
    let time = max(0.001, Runner.seconds() - began)
    if kind == .stories { return "\(ended) stories told, \(failed) failed." }
    if kind == .exhaustive {
      return "\(ended) sequences, \(totals[0]) stories in \(Int(time)) s, \(failed) failed."
    }
    let rate = Double(Int(Double(ended) / time * 10)) / 10
    let t = totals
    return """
      \(ended) seeds in \(Int(time)) s (\(rate) a second), \(failed) failed: \(t[0]) requests, \
      \(t[1]) turns, \(t[3]) crashes, \(t[4]) of them in recovery, \(t[2]) recoveries, \(t[5]) \
      faults, \(t[6]) checks, \(t[7]) checkpoints, \(t[8]) refusals to open, \(t[9]) times no \
      space, \(t[10]) unreadable blocks.
      """
  }
}
