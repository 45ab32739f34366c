import ArgumentParser
import Glibc
import Simulator
import VolumeEngine

/// `thermocline-simulate`: runs seeds of the simulator, in worker processes, so that a violated
/// invariant of the engine costs a worker and not the run.
@main
struct SimulateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "thermocline-simulate",
    abstract: "Run the engine against simulated devices, time, crashes and faults.",
    discussion: """
      Everything that happens follows from a seed. A failure prints the seed, what went wrong, \
      the last events, and the command that replays it. The exit status is 1 after a failure.
      """)

  @Option(help: "How many seeds to run.")
  var seeds = 2000

  @Option(help: "The first seed.")
  var firstSeed: UInt64 = 1

  @Option(help: "Run this one seed and print every event.")
  var seed: UInt64?

  @Option(help: "Print at most so many of the last events of a failure.")
  var tail = 60

  @Option(help: "Begin no seed after so many seconds.")
  var timeLimit: Int?

  @Option(help: "Worker processes.")
  var jobs = 2

  @Option(help: "Go on until so many seeds have failed.")
  var failures = 1

  @Option(help: "Break this rule of the engine on purpose, or 'all', one after the other.")
  var planted: String?

  @Flag(
    help: """
      Instead of seeds: every sequence of up to three acts on a few blocks, cut short after every \
      event by a kill or any power loss. --seed N then means sequence N.
      """)
  var exhaustive = false

  @Flag(help: "Instead of seeds: the stories told on purpose. --seed N then means story N, from 0.")
  var stories = false

  @Flag(help: "List the rules that can be broken.")
  var listPlanted = false

  private var kind: Worker.Kind { exhaustive ? .exhaustive : stories ? .stories : .seeds }

  @Flag(help: .hidden)
  var worker = false

  @Option(help: .hidden)
  var stride: UInt64 = 1

  func validate() throws {
    if let planted, planted != "all", PlantedBug(rawValue: planted) == nil {
      throw ValidationError("There is no rule '\(planted)'; --list-planted names all.")
    }
    if jobs < 1 || jobs > 64 { throw ValidationError("--jobs takes 1 to 64.") }
    if exhaustive && stories { throw ValidationError("--exhaustive or --stories, not both.") }
    if seeds < 1 { throw ValidationError("--seeds takes at least 1.") }
  }

  func run() throws {
    if listPlanted {
      for bug in PlantedBug.allCases { print(bug.rawValue) }
      return
    }
    let bug = planted.flatMap { PlantedBug(rawValue: $0) }
    let one = Worker(planted: bug, tail: tail, kind: kind)
    if worker {
      one.run(first: firstSeed, count: seeds, stride: stride)
      return
    }
    if let seed {
      LastWords.install()
      let passed = one.replay(seed)
      if !passed { throw ExitCode(1) }
      return
    }
    if planted == "all" {
      if !runPlanted() { throw ExitCode(1) }
      return
    }
    var runner = Runner(
      kind, jobs: jobs, first: kind == .seeds ? firstSeed : 0, seeds: kind.count ?? seeds,
      failures: failures, tail: tail, timeLimit: timeLimit, planted: bug)
    runner.run()
    print(runner.summary)
    if runner.failed > 0 { throw ExitCode(1) }
  }

  /// Breaks every rule in turn; true when each was noticed: by the story that watches over it,
  /// else by seeds.
  private func runPlanted() -> Bool {
    var needed: [Int] = []
    var missed: [String] = []
    for bug in PlantedBug.allCases {
      let story = Story.allCases.firstIndex { $0.planted == bug }
      var runner = Runner(
        story == nil ? .seeds : .stories, jobs: jobs,
        first: story.map { UInt64($0) } ?? firstSeed, seeds: story == nil ? seeds : 1,
        failures: 1, tail: 0, timeLimit: timeLimit, planted: bug)
      runner.isQuiet = true
      runner.run()
      if runner.failed > 0, let story {
        print("\(bug.rawValue): caught by story \(Story.allCases[story]): \(runner.firstFailure)")
        needed.append(1)
      } else if runner.failed > 0 {
        needed.append(runner.ended)
        print("\(bug.rawValue): caught after \(runner.ended) seeds: \(runner.firstFailure)")
      } else {
        missed.append(bug.rawValue)
        print("\(bug.rawValue): NOT caught by \(runner.ended) seeds")
      }
    }
    needed.sort()
    let median = needed.isEmpty ? "none" : String(needed[needed.count / 2])
    print(
      "\(needed.count) of \(needed.count + missed.count) planted bugs caught, median \(median) "
        + "seeds, worst \(needed.last ?? 0).")
    return missed.isEmpty
  }
}
