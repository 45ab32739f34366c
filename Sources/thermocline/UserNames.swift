import Configuration
import Glibc
import RingIO

/// Users and groups of the configuration, as the kernel numbers them.
enum UserNames {
  /// The numbers of `listen.unix_users`; nil when there are none.
  static func allowed(_ configuration: PoolConfiguration) throws -> Set<UInt32>? {
    guard let names = configuration.listen.unixUsers else { return nil }
    return try Set(names.map { name in
      guard let number = user(name) else {
        throw mistake(configuration, "listen.unix_users", "users of this machine", name)
      }
      return number
    })
  }

  private static func user(_ name: String) -> UInt32? {
    UInt32(name) ?? getpwnam(name)?.pointee.pw_uid
  }

  /// Who may use the unix socket by its permissions.
  static func permissions(_ configuration: PoolConfiguration) throws -> UnixPermissions {
    var permissions = UnixPermissions(mode: configuration.listen.unixMode)
    permissions.group = try group(configuration)
    if let name = configuration.listen.unixOwner {
      guard let number = user(name) else {
        throw mistake(configuration, "listen.unix_owner", "a user of this machine", name)
      }
      permissions.owner = number
    }
    return permissions
  }

  private static func group(_ configuration: PoolConfiguration) throws -> UInt32? {
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
