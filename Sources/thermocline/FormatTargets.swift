import Base
import Configuration
import DiskFormat
import RingIO

/// The devices and files that `format` is to make a pool of: looked at before anything is touched.
struct FormatTargets {
  struct Target {
    let tier: Int
    let path: String
    /// Bytes, when a regular file has to be made.
    let makesFileOf: UInt64?
    /// What is lost when it is formatted.
    let carries: [String]
    let isBlockDevice: Bool
  }

  let targets: [Target]

  /// Looks at every device; refuses mistakes of the configuration that only the machine can tell,
  /// and devices in use, all at once.
  static func examine(_ configuration: PoolConfiguration) throws -> FormatTargets {
    var mistakes: [ConfigurationMistake] = []
    var refusals: [String] = []
    var targets: [Target] = []
    var seen: [(path: String, facts: PathFacts)] = []
    for (tier, number, settings) in configuration.devices {
      let key = PoolConfiguration.deviceKey(tier: tier, number: number)
      let facts = PathFacts(settings.path)
      if let problem = problem(configuration, key, settings, facts) {
        mistakes.append(problem)
        continue
      }
      if let twin = seen.first(where: { $0.facts.isSame(as: facts) }) {
        mistakes.append(
          configuration.mistake(
            at: key + ".path", expected: "every device once",
            found: "\(settings.path), the same as \(twin.path)"))
        continue
      }
      seen.append((settings.path, facts))
      let reasons = DeviceUse.reasons(settings.path)
      refusals += reasons.map { "\(settings.path) \($0)." }
      let isMissing = facts.kind == .missing
      targets.append(
        Target(
          tier: tier, path: settings.path, makesFileOf: isMissing ? settings.size : nil,
          carries: isMissing || !reasons.isEmpty ? [] : try DeviceContents.describe(settings.path),
          isBlockDevice: facts.kind == .blockDevice))
    }
    guard mistakes.isEmpty else { throw ConfigurationError(mistakes: mistakes) }
    guard refusals.isEmpty else { throw Refusal(lines: refusals) }
    return FormatTargets(targets: targets)
  }

  /// What would be lost, one sentence a device.
  var losses: [String] {
    targets.flatMap { target in target.carries.map { "\(target.path) carries \($0)." } }
  }

  private static func problem(
    _ configuration: PoolConfiguration, _ key: String, _ settings: DeviceSettings,
    _ facts: PathFacts
  ) -> ConfigurationMistake? {
    func mistake(_ part: String, _ expected: String, _ found: String) -> ConfigurationMistake {
      configuration.mistake(at: key + part, expected: expected, found: found)
    }
    switch (facts.kind, settings.size) {
    case (.other, _):
      return mistake(".path", "a block device or a regular file", "\(settings.path)")
    case (.missing, nil):
      return mistake(
        "", "a device that exists, or a size to make a file of", "nothing at \(settings.path)")
    case (.missing, _?) where settings.path.hasPrefix("/dev/") && !isInMemory(settings.path):
      return mistake(".path", "a device that exists", "nothing at \(settings.path)")
    case (.blockDevice, _?):
      return mistake(".size", "no size for a block device", "one")
    case (.regularFile, let size?) where size != facts.size:
      return mistake(
        ".size", "the size of the file that is there, \(SizeText.exact(facts.size))",
        SizeText.exact(size))
    case (.regularFile, _) where facts.size < ConfigurationLimits.minimumDevice:
      return mistake(
        ".path", "a file of at least \(SizeText.exact(ConfigurationLimits.minimumDevice))",
        "\(SizeText.exact(facts.size))")
    case (.missing, _), (.blockDevice, _), (.regularFile, _):
      return nil
    }
  }

  private static func isInMemory(_ path: String) -> Bool { path.hasPrefix("/dev/shm/") }
}
