"""The driver's former address, which images and RayJobs in flight still name: see `medsd_ray.driver.main`."""

from medsd_ray.driver.main import main

if __name__ == "__main__":
    main()
