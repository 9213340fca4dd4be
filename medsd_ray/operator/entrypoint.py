"""The driver by its former name, which RayJobs go on naming: see `medsd_ray.operator.manifests.rayjob`."""

from medsd_ray.driver.main import main

if __name__ == "__main__":
    main()
