import Configuration
import Glibc

/// Users and groups of the configuration, as the kernel numbers them.
enum UserNames {
  /// The numbers of `listen.unix_users`; nil when there are none.
  static func allowed(_ configuration: PoolConfiguration) throws -> Set<UInt32>? {
    guard let names = configuration.listen.unixUsers else { return nil }
    return try Set(names.map { name in
      if let number = UInt32(name) { return number }
      guard let entry = getpwnam(name) else {
        throw mistake(configuration, "listen.unix_users", "users of this machine", name)
      }
      return entry.pointee.pw_uid
    })
  }

  /// The number of `listen.unix_group`; nil when there is none.
  static func group(_ configuration: PoolConfiguration) throws -> UInt32? {
    guard let name = configuration.listen.unixGroup else { return nil }
    if let number = UInt32(name) { return number }
    guard let entry = getgrnam(name) else {
      throw mistake(configuration, "listen.unix_group", "a group of this machine", name)
    }
    return entry.pointee.gr_gid
  }

  private static func mistake(
    _ configuration: PoolConfiguration, _ key: String, _ expected: String, _ name: String
  ) -> ConfigurationError {
    ConfigurationError(mistakes: [
      configuration.mistake(at: key, expected: expected, found: "\"\(name)\"")
    ])
  }
}
