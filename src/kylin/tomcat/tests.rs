use proptest::prelude::*;

use super::*;
use crate::kylin::properties::Properties;

/// The recipe of the KAP manual for `tomcat/conf/context.xml`.
const RECIPE: &str = r#"<?xml version='1.0' encoding='utf-8'?>
<!-- The contents of this file will be loaded for each web application -->
<Context>
    <WatchedResource>WEB-INF/web.xml</WatchedResource>
    <Valve className="com.radiadesign.catalina.session.RedisSessionHandlerValve" />
    <Manager className="com.radiadesign.catalina.session.RedisSessionManager"
             host="redis.example"
             port="6380"
             database="2"
             password="s3cret"
             maxInactiveInterval="60"/>
</Context>
"#;

fn context(xml: &str) -> Result<Option<SessionManager>, TomcatError> {
    SessionManager::from_context("context.xml", xml)
}

fn addresses(manager: &SessionManager) -> Vec<String> {
    manager.stores().iter().map(|store| format!("{}:{}", store.host(), store.port())).collect()
}

#[test]
fn reads_the_recipe_of_the_manual_and_warns_of_its_defects() {
    let manager = context(RECIPE).unwrap().unwrap();
    assert_eq!((manager.kind(), manager.database(), manager.has_password()), (ManagerKind::TomcatRedis1, 2, true));
    assert_eq!(addresses(&manager), ["redis.example:6380"]);
    assert_eq!(
        manager.warnings(),
        [
            Warning::ManualJars,
            Warning::MaxInactiveIgnored,
            Warning::NoJvmRoute,
            Warning::SavedLate,
            Warning::Flushes,
            Warning::Serialised
        ]
    );
    assert!(!format!("{manager:?}").contains("s3cret"));
    let without = context(&RECIPE.replace("RedisSessionHandlerValve", "OtherValve")).unwrap().unwrap();
    assert_eq!(without.warnings()[0], Warning::NoValve);
    let mixed = context(&RECIPE.replace(
        "com.radiadesign.catalina.session.RedisSessionManager",
        "com.orangefunction.tomcat.redissessions.RedisSessionManager",
    ));
    assert_eq!(mixed.unwrap().unwrap().warnings()[0], Warning::NoValve);
}

#[test]
fn reads_the_other_managers() {
    let sentinel = r#"<Context><Valve className="com.orangefunction.tomcat.redissessions.RedisSessionHandlerValve"/>
        <Manager className="com.orangefunction.tomcat.redissessions.RedisSessionManager" sentinelMaster="m" sentinels="a:1,b"/></Context>"#;
    let manager = context(sentinel).unwrap().unwrap();
    assert_eq!((manager.kind(), manager.sentinel_master()), (ManagerKind::TomcatRedis2, Some("m")));
    assert_eq!(addresses(&manager), ["a:1", "b:26379"]);
    assert_eq!(manager.warnings(), [Warning::SavedLate, Warning::Flushes, Warning::Serialised]);

    // As in kubernetes/config/production/tomcat/context.xml:39-45 of apache/kylin.
    let memcached = r#"<Context><Manager className="de.javakaffee.web.msm.MemcachedBackupSessionManager"
        memcachedNodes="n1:cached-0:11211,n2:cached-1:11212" failoverNodes="n1" storageKeyPrefix="context"/></Context>"#;
    let manager = context(memcached).unwrap().unwrap();
    assert_eq!(
        (manager.kind(), addresses(&manager)),
        (ManagerKind::Memcached, vec!["cached-0:11211".into(), "cached-1:11212".into()])
    );
    assert_eq!((manager.stores()[1].name(), manager.warnings()), (Some("n2"), vec![Warning::Sticky]));
    let non_sticky = context(&memcached.replace("failoverNodes", "sticky=\"false\" failoverNodes")).unwrap().unwrap();
    assert_eq!(non_sticky.warnings(), []);
    let one = context(&memcached.replace("n1:cached-0:11211,n2:cached-1:11212", "cached")).unwrap().unwrap();
    assert_eq!((addresses(&one), one.stores()[0].name()), (vec!["cached:11211".into()], None));
    for (url, found) in [("redis://cached", "cached:6379"), ("redis://:s3cret@cached:6380/1", "cached:6380")] {
        let redis = context(&memcached.replace("n1:cached-0:11211,n2:cached-1:11212", url)).unwrap().unwrap();
        assert_eq!((addresses(&redis), redis.stores()[0].name()), (vec![found.into()], None), "{url}");
        assert!(!format!("{redis:?}").contains("s3cret"));
    }

    let text = "redis.hosts=r1:7000, r2:7001\nredis.password=s3cret\nredis.database=3\nredis.timeout=2000\n\
                redis.sentinel.enabled=true\nredis.sentinel.master=mymaster\n";
    let manager =
        SessionManager::from_redis_data_cache(&Properties::parse("redis-data-cache.properties", text).unwrap())
            .unwrap();
    assert_eq!((manager.kind(), manager.database(), manager.has_password()), (ManagerKind::RanJit, 3, true));
    assert_eq!(
        (addresses(&manager), manager.sentinel_master()),
        (vec!["r1:7000".into(), "r2:7001".into()], Some("mymaster"))
    );
}

#[test]
fn a_manager_with_a_file_of_its_own_has_its_servers_there() {
    let ran_jit = r#"<Context>
        <Valve className="tomcat.request.session.redis.SessionHandlerValve"/>
        <Manager className="tomcat.request.session.redis.SessionManager"/></Context>"#;
    let manager = context(ran_jit).unwrap().unwrap();
    assert_eq!((manager.stores().len(), manager.settings_file()), (0, Some("redis-data-cache.properties")));
    assert_eq!(manager.warnings(), [Warning::NoSettings, Warning::SavedLate]);
    let text = "redis.hosts=r1:7000\nredis.password=${REDIS_PASSWORD}\n";
    let manager = manager.with_settings("redis-data-cache.properties", text).unwrap();
    assert_eq!((addresses(&manager), manager.has_password()), (vec!["r1:7000".into()], true));
    assert_eq!(manager.warnings(), [Warning::SavedLate]);
    let sticky = format!("{text}lb.sticky-session.enabled=true\n");
    let sticky = manager.clone().with_settings("redis-data-cache.properties", &sticky).unwrap();
    assert_eq!(sticky.warnings(), [Warning::Sticky, Warning::SavedLate]);
    let old = ran_jit.replace("tomcat.request.session.redis.S", "com.r.tomcat.session.management.RequestS");
    assert_eq!(context(&old).unwrap().unwrap().settings_file(), Some("RedisDataCache.properties"));
    let error = context(ran_jit).unwrap().unwrap().with_settings("r", "redis.database=x\n# none\n").unwrap_err();
    assert_eq!(error.to_string(), "r:0: redis.hosts: expected host:port, …");

    let redisson = r#"<Context><Manager className="org.redisson.tomcat.RedissonSessionManager"
        configPath="${catalina.base}/conf/redisson.yaml" readMode="REDIS" updateMode="AFTER_REQUEST"/></Context>"#;
    let manager = context(redisson).unwrap().unwrap();
    assert_eq!((manager.kind(), manager.settings_file()), (ManagerKind::Redisson, Some("redisson.yaml")));
    for (text, found) in [
        (
            "singleServerConfig:\n  password: s3cret\n  # address: \"redis://old:1\"\n  address: \"redis://r1:6380\"\n",
            "r1:6380",
        ),
        (
            r#"{"clusterServersConfig":{"nodeAddresses":["redis://u:s3cret@r1:7000","rediss://r2"],"password":"s3cret"}}"#,
            "r1:7000 r2:6379",
        ),
    ] {
        let manager = manager.clone().with_settings("redisson.yaml", text).unwrap();
        assert_eq!((&*addresses(&manager).join(" "), manager.has_password()), (found, true));
        assert_eq!(manager.warnings(), [Warning::SavedLate]);
        assert!(!format!("{manager:?} {manager}").contains("s3cret"));
    }
    assert_eq!(
        manager.with_settings("redisson.yaml", "").unwrap().warnings(),
        [Warning::NoSettings, Warning::SavedLate]
    );
}

#[test]
fn reads_the_persistent_manager_of_tomcat() {
    let xml = r#"<Context><Valve className="org.apache.catalina.valves.PersistentValve"/>
        <Manager className="org.apache.catalina.session.PersistentManager" maxIdleBackup="0">
        <Store className="org.apache.catalina.session.JDBCStore" driverName="com.mysql.jdbc.Driver"
               connectionURL="jdbc:mysql://db1:3307,db2/tomcat?user=kylin&amp;password=s3cret" connectionPassword="s3cret"/>
        </Manager></Context>"#;
    let manager = context(xml).unwrap().unwrap();
    assert_eq!((manager.kind(), addresses(&manager).join(" ")), (ManagerKind::Persistent, "db1:3307 db2:3306".into()));
    assert_eq!(manager.to_string(), "PersistentManager of Tomcat at db1:3307, db2:3306, with a password");
    assert_eq!(manager.warnings(), [Warning::SavedLate]);
    assert!(!format!("{manager:?}").contains("s3cret"));
    let without = context(&xml.replace("PersistentValve", "X")).unwrap().unwrap();
    assert_eq!(without.warnings()[0], Warning::NoValve);
    let files = context(&xml.replace("JDBCStore", "FileStore")).unwrap().unwrap();
    assert!(files.warnings().contains(&Warning::Files));
    let source = xml.replace("JDBCStore", "DataSourceStore").replace("connectionURL", "dataSourceName");
    assert_eq!(context(&source).unwrap().unwrap().stores(), []);
}

#[test]
fn reads_the_sessions_of_kylin_5() {
    let read =
        |text: &str| SessionManager::from_kylin_properties(&Properties::parse("kylin.properties", text).unwrap());
    let url = "kylin.metadata.url=kylin_metadata@jdbc,url=jdbc:postgresql://pg:5433/kylin,username=k,password=s3cret\n";
    let manager = read(&format!("{url}spring.session.store-type=JDBC\n")).unwrap().unwrap();
    assert_eq!(manager.to_string(), "Spring Session of Kylin 5 at pg:5433");
    assert_eq!(manager.warnings(), []);
    let secure = "spring.session.store-type=jdbc\nkylin.web.session.secure-random-create-enabled=true\n";
    assert_eq!(read(secure).unwrap().unwrap().warnings(), [Warning::LongIds]);
    for (text, shown) in [
        ("host=r1\nspring.redis.database=4\nspring.redis.password=s3cret", "r1:6379, database 4, with a password"),
        ("cluster.nodes=r1:7000,r2:7001", "r1:7000, r2:7001"),
        ("sentinel.master=m\nspring.redis.sentinel.nodes=s1,s2:5", "s1:26379, s2:5 (Sentinels of m)"),
    ] {
        let manager = read(&format!("spring.session.store-type=redis\nspring.redis.{text}\n")).unwrap().unwrap();
        assert_eq!(manager.to_string(), format!("Spring Session of Kylin 5 at {shown}"));
    }
    let local = read("spring.session.store-type=redis\n").unwrap().unwrap();
    assert_eq!(local.warnings(), [Warning::Local]);
    for text in [url, "spring.session.store-type=NONE\n"] {
        assert_eq!(read(text), Ok(None), "{text}");
    }
    let error = read("\nspring.session.store-type=mongodb\n").unwrap_err().to_string();
    assert_eq!(error, "kylin.properties:2: spring.session.store-type: expected JDBC, REDIS or NONE");
}

#[test]
fn the_path_of_the_manual_is_not_the_one_that_tomcat_reads() {
    for (file, is_wrong) in [
        ("/opt/kylin/tomcat/context.xml", true),
        ("tomcat/context.xml", true),
        ("/opt/kylin/tomcat/conf/context.xml", false),
        ("context.xml", false),
    ] {
        let manager = SessionManager::from_context(file, RECIPE).unwrap().unwrap();
        assert_eq!(manager.warnings().contains(&Warning::WrongPath), is_wrong, "{file}");
    }
}

#[test]
fn sessions_in_memory_have_no_manager() {
    for xml in [
        "<Context/>",
        r#"<Context><Manager pathname=""/></Context>"#,
        r#"<Context><!-- <Manager className="com.radiadesign.catalina.session.RedisSessionManager"/> --></Context>"#,
        r#"<Context><Manager className="org.apache.catalina.session.StandardManager"/></Context>"#,
    ] {
        assert_eq!(context(xml), Ok(None), "{xml}");
    }
    let local =
        context(r#"<Context><Manager className="com.radiadesign.catalina.session.RedisSessionManager"/></Context>"#);
    let local = local.unwrap().unwrap();
    assert_eq!(addresses(&local), ["localhost:6379"]);
    assert!(local.warnings().contains(&Warning::Local));
}

#[test]
fn errors_name_the_line_and_keep_secrets() {
    for (from, to, line, attribute) in [
        ("6380", "s3cret", 8, "port"),
        ("\"2\"", "\"-1\"", 9, "database"),
        ("\"60\"", "\"${x}\"", 11, "maxInactiveInterval"),
        ("redis.example", "${host}", 7, "host"),
    ] {
        match context(&RECIPE.replace(from, to)).unwrap_err() {
            TomcatError::Value { line: found, attribute: name, .. } => assert_eq!((found, &*name), (line, attribute)),
            other => panic!("{other}"),
        }
    }
    for (from, to) in [
        ("</Context>", ""),
        ("\"s3cret\"", "\"s3cret&nothing;\""),
        ("<?xml version='1.0' encoding='utf-8'?>", "<!DOCTYPE x [<!ENTITY a 's3cret'>]>"),
    ] {
        let error = context(&RECIPE.replace(from, to)).unwrap_err();
        assert!(matches!(error, TomcatError::Xml { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
    let none =
        SessionManager::from_redis_data_cache(&Properties::parse("r", "redis.database=x\nredis.hosts=a").unwrap());
    assert_eq!(none.unwrap_err().to_string(), "r:1: redis.database: expected a whole number");
}

#[test]
fn deep_or_large_files_do_not_panic() {
    let deep = format!("<Context>{}{}</Context>", "<a>".repeat(50_000), "</a>".repeat(50_000));
    let _ = context(&deep);
    assert!(context(&format!("<Context>{}</Context>", "<a/>".repeat(200_000))).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(xml in "(<|>|/|Manager|Context|className|=|\"|&|;|[a-z :,]){0,40}", nodes in "[a-z:, 0-9]{0,30}") {
        let _ = context(&xml);
        let _ = context(&format!(r#"<Manager className="de.javakaffee.web.msm.X" memcachedNodes="{nodes}"/>"#));
        let _ = context(&format!(r#"<Manager className="com.orangefunction.tomcat.redissessions.RedisSessionManager" sentinelMaster="m" sentinels="{nodes}"/>"#));
    }
}
